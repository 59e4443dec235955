"""What `memory.py` compares: three deep networks, and ways to train them that keep fewer bytes than backprop does.

Checkpointing (Chen et al. 2016, arXiv 1604.06174) keeps the inputs of segments and runs a segment again when its
gradient is due; the last segment, whose gradient is due at once, is not run again. Segments and blocks are cut for
equal bytes by the same `split`.
"""

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

import blocklocal as bl
from blocklocal.models.decoder import Decoder
from blocklocal.models.transformer import Transformer

CUT_BATCH = 4  # samples on which units are measured: the cuts are the same for any batch
VOCABULARY, LENGTH = 64, 128
TOKENS = 4096  # of the decoder


@dataclass(frozen=True)
class Case:
    """A network and its data.

    model: draws a new one, with `units()`. data: a number of samples → a batch of noise (x, y), the same each time.
    asked: what the network is asked for, as `BlockLocal` takes it. batch: samples per step, by default. learning:
    settings of the block-local rule.
    """

    name: str
    words: str
    model: Callable[[], nn.Module]
    data: Callable[[int], tuple[Tensor, Tensor]]
    asked: Mapping[str, int]
    batch: int
    optimizer: bl.Optimizer
    learning: Mapping[str, Any] = field(default_factory=dict)

    def on(self, device: torch.device, samples: int) -> tuple[Tensor, Tensor]:
        """A batch on the device, images with their channels last."""
        x, y = self.data(samples)
        x, y = x.to(device), y.to(device)
        return (x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x), y


def images(samples: int) -> tuple[Tensor, Tensor]:
    """Noise in the shape of CIFAR-10."""
    draw = torch.Generator().manual_seed(1)
    return torch.randn(samples, 3, 32, 32, generator=draw), torch.randint(0, 10, (samples,), generator=draw)


def characters(samples: int) -> tuple[Tensor, Tensor]:
    """Random tokens, and a random one as the target of every position."""
    draw = torch.Generator().manual_seed(1)
    x, y = torch.randint(0, VOCABULARY, (2, samples, LENGTH), generator=draw)
    return x, y


def tokens(samples: int) -> tuple[Tensor, Tensor]:
    """Random tokens of a large vocabulary, as often as the words of a text (Zipf: 1/rank), and as random targets."""
    often = 1 / torch.arange(1.0, TOKENS + 1)
    drawn = torch.multinomial(often, 2 * samples * LENGTH, replacement=True, generator=torch.Generator().manual_seed(1))
    x, y = drawn.view(2, samples, LENGTH)
    return x, y


_RESNET = partial(bl.build_model, "resnet110", classes=10, channels=3, image_size=(32, 32), width=16)
_TRANSFORMER = partial(
    Transformer, VOCABULARY, LENGTH, width=64, blocks=20, heads=2, causal=True, positions="sinusoids"
)
CASES = {
    case.name: case
    for case in (
        Case(
            "resnet110",
            "ResNet-110 of width 16, 3×32×32",
            _RESNET,
            images,
            {"classes": 10},
            32,
            bl.sgd(0.01, weight_decay=5e-4),
        ),
        Case(
            "transformer",
            f"transformer of 20 blocks of width 64, 2 heads, {LENGTH} causal positions, {VOCABULARY} tokens",
            _TRANSFORMER,
            characters,
            {"classes": VOCABULARY},
            16,
            bl.adamw(3e-3, clip=1.0),
            # as the character-level language model of `blocklocal reproduce figure3` learns
            {"objective": "evidence", "family": "gaussian", "normalise": "units"},
        ),
        Case(
            "decoder",
            f"decoder of 12 layers of width 128, 2 heads, {LENGTH} positions, {TOKENS} tokens",
            partial(Decoder, TOKENS, LENGTH, width=128, layers=12),
            tokens,
            {"tokens": TOKENS},
            16,
            bl.adamw(3e-3, clip=1.0),
        ),
    )
}


def one(units: int) -> int:
    return 1


def every(units: int) -> int:
    return units


def root(units: int) -> int:
    """√n segments: as many inputs to keep as units in the segment that is run again."""
    return round(math.sqrt(units))


@dataclass(frozen=True)
class Method:
    """How a network is trained. segments: of checkpointing, from the number of units; blocks: of block-local.

    parts: of a batch, whose gradients are added up. readout: layers of block-local. negatives: the share of the tokens
    that a batch does not hold, over which a hidden block's loss is normalised. time_limit, bytes_limit: the largest
    ratio to backprop.
    """

    name: str
    segments: Callable[[int], int] = one
    blocks: int = 1
    parts: int = 1
    readout: int = 0
    negatives: float = 1.0
    bytes_limit: float | None = None
    time_limit: float | None = None


METHODS = (
    Method("backprop"),
    Method("checkpointing, every unit", every),
    Method("checkpointing, √n segments", root),
    *(
        Method(f"block-local, K = {k}", blocks=k, bytes_limit=limit, time_limit=1.10)
        for k, limit in ((2, 0.57), (3, 0.40), (4, 0.32), (8, 0.20))
    ),
)
DECODER_METHODS = (
    *METHODS[:3],
    Method("accumulation, 2 parts", parts=2),
    Method("accumulation, 4 parts", parts=4),
    *(Method(f"block-local, K = {k}", blocks=k) for k in (2, 4)),
    *(Method(f"block-local, K = {k}, readouts of 2 layers", blocks=k, readout=2) for k in (2, 4)),
    Method("block-local, K = 2, the same, few negatives", blocks=2, readout=2, negatives=0.125),
    Method(
        "block-local, K = 4, the same, few negatives",
        blocks=4,
        readout=2,
        negatives=0.125,
        bytes_limit=0.40,
        time_limit=1.35,
    ),
    *(
        Method(f"block-local, K = {k}, readouts of 1 layer, few negatives", blocks=k, readout=1, negatives=0.125)
        for k in (2, 4)
    ),
)


def methods_of(case: Case) -> tuple[Method, ...]:
    """The ways to train a network; of a language model others, whose logits weigh more than its layers."""
    return DECODER_METHODS if case.name == "decoder" else METHODS


def build(case: Case, method: Method, device: torch.device) -> bl.BlockLocal:
    """The network under one method, with the same first weights under all."""
    torch.manual_seed(0)
    model = case.model()
    example, _ = case.data(CUT_BATCH)
    segments = method.segments(len(model.units()))  # type: ignore[operator]
    if segments > 1:
        model = checkpointed(bl.split(model, segments, balance="bytes", example=example).blocks)
    cut = bl.split(model, method.blocks, balance="bytes", example=example) if method.blocks > 1 else bl.split(model, 1)
    rule = "block-local" if method.blocks > 1 else "backprop"
    learned = {"readout": method.readout, "negatives": method.negatives}
    settings: dict[str, Any] = {"rule": rule, **learned, **case.learning, **case.asked}
    network = (Accumulating if method.parts > 1 else bl.BlockLocal)(
        cut, optimizer=case.optimizer, example=example, **settings
    )
    if isinstance(network, Accumulating):
        network.parts = method.parts
    return network.to(device, memory_format=torch.channels_last)  # pyrefly: ignore


class Accumulating(bl.BlockLocal):
    """A network that adds up the gradients of the parts of a batch before it updates."""

    parts = 1

    def step(self, x: Any, y: Any, weight: Tensor | None = None, *, update: bool = True) -> list[Any]:
        pairs = list(zip(x.chunk(self.parts), y.chunk(self.parts), strict=True))
        for given, wanted in pairs[:-1]:
            super().step(given, wanted, update=False)
        return super().step(*pairs[-1])


def checkpointed(segments: list[nn.Module]) -> nn.Sequential:
    """The segments in a row; all but the last are run again in the backward pass."""
    return nn.Sequential(*(Checkpointed(segment) for segment in segments[:-1]), segments[-1])


class Checkpointed(nn.Module):
    """A segment of which only the input is kept; the backward pass runs it again.

    The reentrant variant of torch: what it builds on the second run is an ordinary graph, so that its bytes are
    counted, and it takes a little less time here than the other one, which keeps the same. BatchNorm statistics are
    updated by the first run alone. Nothing here is random, so no generator states are kept.
    """

    def __init__(self, segment: nn.Module):
        super().__init__()
        self.segment = segment
        self.anchor = torch.empty(0, requires_grad=True)  # else a first segment, whose input is data, gets no gradient

    def forward(self, a: Tensor) -> Tensor:
        out = checkpoint(self._run, a, self.anchor, use_reentrant=True, preserve_rng_state=False)
        assert isinstance(out, Tensor)
        return out

    def _run(self, a: Tensor, anchor: Tensor) -> Tensor:
        again = torch.is_grad_enabled()
        context: AbstractContextManager = unchanged_statistics(self.segment) if again else nullcontext()
        with context:
            return self.segment(a)


@contextmanager
def unchanged_statistics(module: nn.Module):
    """BatchNorm normalises by the batch as ever, but its running mean and variance stay as they are."""
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
