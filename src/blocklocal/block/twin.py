"""Twin (backward) networks: from the target to every block's backward message b_k (Eq. 4).

A twin is evaluated once per target row (class), never once per sample. Four kinds:

    dense      one per block, target → b_k; blocks are independent of each other
    chain      b_k = g_k(tanh b_{k+1}), dense layers, detached between blocks
    mirrored   b_k = g_k(b_{k+1}), g_k the architecture of block k+1 reversed (the paper's ResNet twin, §4.1)
    shared     b_k = τ_k · W, W the table of the last block's linear layer, sent back unchanged (`shared`)

A twin has no BatchNorm: it would see class frequencies instead of samples.

In a chained twin (chain, mirrored, shared) a message goes from block to block, and between processes that takes time:
with a delay of D steps, what block k + 1 passes on in step t reaches block k in step t + D (method §5).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn as nn
from torch import Tensor

from blocklocal._common.errors import InputError
from blocklocal._common.registry import Registry
from blocklocal.block.mirror import mirror_block
from blocklocal.block.shapes import Layout, is_map, units_of


class Twin(nn.Module):
    """One block's backward network: what came from behind → (its raw message, what goes to the block before).

    Args:
        chained: the incoming message is the next block's outgoing one; else every block reads the target itself.

    Attributes:
        reads_rows: whether it reads the one-hot target rows as a tensor [R, R].
        period: messages go from block to block in every so many steps.
        late: of a chained twin with a delay of D steps, its last D outgoing messages [D, R, values], oldest first;
            flat, so that a message has one layout in memory whatever that of the network is.
    """

    late: Tensor | None
    reads_rows = True
    period = 1

    def __init__(self, network: nn.Module, chained: bool, squash: bool):
        super().__init__()
        self.network, self.chained, self.squash = network, chained, squash
        self.message_shape = torch.Size()
        self.register_buffer("late", None)

    def forward(self, incoming: Tensor) -> tuple[Tensor, Tensor]:
        """incoming [R, …] → (raw message [R, …] with its graph, outgoing [R, …] detached)."""
        raw = self.network(incoming)
        if not self.chained:
            return raw, incoming
        return raw, (torch.tanh(raw) if self.squash else raw).detach()

    def due(self, step: int) -> bool:
        """Whether a message goes from block to block in this training step."""
        return step % self.period == 0

    def source(self, block: nn.Module, incoming: Tensor) -> Tensor:
        """What the twin of this block starts from: what came from behind."""
        return incoming

    def learn_from(self, incoming: Tensor) -> None:
        """A message has come in a training step."""

    def delay(self, steps: int, outgoing: Tensor) -> None:
        """From now on, what is passed on arrives `steps` later; until then the first outgoing message does."""
        if steps and self.chained:
            self.message_shape = outgoing.shape
            self.late = outgoing.detach().flatten(1).repeat(steps, 1, 1)

    def arriving(self, outgoing: Tensor) -> Tensor:
        """What reaches the block before now: this outgoing message, or the one of D steps ago."""
        return outgoing if self.late is None else self.late[0].view(self.message_shape)

    def post(self, outgoing: Tensor) -> Tensor:
        """As `arriving`, in a training step: the messages under way move on by one."""
        now = self.arriving(outgoing)
        if self.late is not None:
            self.late = torch.cat((self.late[1:], outgoing.flatten(1).unsqueeze(0)))
        return now


class DenseTwin(Twin):
    """One dense layer from the one-hot target rows: its message for row r is column r of its weight, and the bias.

    For all rows in order, [R, 0], that is read off the weight.
    """

    reads_rows = False

    def __init__(self, layer: nn.Linear):
        super().__init__(layer, chained=False, squash=False)

    def forward(self, incoming: Tensor) -> tuple[Tensor, Tensor]:
        layer = cast(nn.Linear, self.network)
        if incoming.shape[1]:
            return super().forward(incoming)
        return (layer.weight.T + layer.bias).contiguous(), incoming


def _dense(inputs: int, units: int, std: float) -> nn.Linear:
    layer = nn.Linear(inputs, units)
    nn.init.normal_(layer.weight, std=std)
    nn.init.zeros_(layer.bias)
    return layer


@dataclass(frozen=True)
class TwinShapes:
    """What twins are built from: target rows, and per hidden block its latent's and its activation's shape ([B, …])."""

    rows: int
    latents: Sequence[torch.Size]
    activations: Sequence[torch.Size]
    blocks: Sequence[nn.Module]  # all K blocks: the twin in front of block k + 1 is that block reversed
    layouts: Sequence[Layout] = ()  # of the hidden blocks' activations, as the network has them


def dense_twins(plan: TwinShapes) -> list[Twin]:
    """One dense layer per block, straight from the target.

    A message on maps starts with values of order 1/√units, so that the logits, sums over units, start at order one
    (`HiddenLoss` itself scales the messages on anything else).
    """
    layers = [
        _dense(plan.rows, units_of(shape), std=units_of(shape) ** -0.5 if is_map(shape) else 1.0)
        for shape in plan.latents
    ]
    return [DenseTwin(layer) for layer in layers]


def chain_twins(plan: TwinShapes) -> list[Twin]:
    """Dense layers with tanh between them; the last hidden block's twin starts at the target."""
    widths = [units_of(shape) for shape in plan.latents]
    incoming, last = [*widths[1:], plan.rows], len(widths) - 1
    scales = [1.0 if k == last else inputs**-0.5 for k, inputs in enumerate(incoming)]  # the last reads one-hot rows
    return [
        Twin(_dense(incoming[k], width, std=scales[k]), chained=True, squash=True) for k, width in enumerate(widths)
    ]


def mirrored_twins(plan: TwinShapes) -> list[Twin]:
    """Block k + 1 reversed maps the message behind it to the one in front of it; the last starts at the target.

    Raises:
        InputError: a block gives something else than flat outputs, sequences or 2-D maps.
    """
    if not all(layout.as_it_is and layout.dims < 5 for layout in plan.layouts):
        raise InputError(
            "a mirrored twin can reverse dense layers and 2-D convolutions alone, and a block gives [B, C, L], "
            "[B, C, D, H, W] or units in the last of more than three axes: give twin='dense' or twin='chain'."
        )
    twins = []
    for k, latent in enumerate(plan.latents):
        behind = plan.latents[k + 1][1:] if k + 1 < len(plan.latents) else torch.Size([plan.rows])
        given = plan.activations[k][1:]
        reversed_block = mirror_block(plan.blocks[k + 1], given=given, latent=latent[1:], behind=behind)
        twins.append(Twin(reversed_block, chained=True, squash=False))
    return twins


TWINS: Registry[Callable[[TwinShapes], Sequence[Twin]]] = Registry("twin")
TWINS.add("dense", dense_twins)
TWINS.add("chain", chain_twins)
TWINS.add("mirrored", mirrored_twins)
