"""Whether a network, and its training, fits into memory: found out before anything is built.

The network is built on torch's meta device, where tensors have shapes and no content. What comes out is less than what
will be needed, so that nothing is refused that could run: activations are those that convolutions and linear layers
put out, and of gradients and activations those of the largest block alone where blocks learn one after the other.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from blocklocal._common.errors import InputError
from blocklocal._common.limits import available_bytes, check_memory
from blocklocal.adapters import is_named
from blocklocal.models.file import is_reference
from blocklocal.network.network import BlockLocal
from blocklocal.rules import RULES
from blocklocal.runs.config import Config

FLOAT = 4  # bytes
SURELY = 1 / 2  # of the free memory: a rough estimate below it needs no exact one, which costs seconds
REMEDY = "take a smaller --width, --readout, --image-size or --batch-size, or a machine with more"
STREAM = "keep one block at a time in memory (--memory 4GiB, or what there is; `blocklocal plan` says what that needs)"
LOOK = "keep one block at a time in memory (--visit 1)"
WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


def check_fits(
    config: Config,
    model: Callable[[], nn.Module],
    network: Callable[[nn.Module], BlockLocal],
    example: torch.Tensor,
    device: torch.device | None = None,
) -> None:
    """Raise InputError, with the sizes, where a network needs more memory than is free.

    Args:
        model: builds the model; called on the meta device, where a user's own model cannot be.
        network: cuts the model.
        example: a training batch [B, …], of which the shape counts; with B = 0 the weights alone, as for a prediction.
    """
    if is_reference(config.model.model) or is_named(config.model.model):
        return
    free = _free(device)
    if free is None:
        return
    with torch.device("meta"):
        plain = model()
        if _rough(config, plain, example.shape) < SURELY * free:
            return
        try:
            parts = _parts(config, network(plain), example)
        except (NotImplementedError, RuntimeError, InputError):
            # Something in it needs more than shapes; the weights are known. A bad setting is reported when it is built.
            parts = {"weights": FLOAT * sum(p.numel() for p in plain.parameters())}
    check_memory("this training" if len(example) else "this network", parts, _remedy(config, len(example)), free)


def _remedy(config: Config, batch: int) -> str:
    """What to do; blocks that wait for none behind them need not all be there."""
    if not batch:
        return f"{LOOK}, or take a machine with more"
    waits = RULES.get(config.learning.rule).waits_because(config.learning.scope)
    return REMEDY if waits else f"{STREAM}; or {REMEDY}"


def _free(device: torch.device | None) -> int | None:
    if device is not None and device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return available_bytes()


def _rough(config: Config, model: nn.Module, example: torch.Size) -> int:
    """More bytes than will be needed, from the weights alone."""
    layers = [layer for layer in model.modules() if isinstance(layer, WEIGHTED)]
    widest = max((layer.weight.shape[0] for layer in layers), default=1)
    blocks, readout = max(config.model.blocks, 1 + len(config.model.at)), config.learning.readout
    weights = 4 * sum(p.numel() for p in model.parameters()) + 18 * blocks * readout * widest**2
    pixels = max((example[2:].numel() for layer in layers if not isinstance(layer, nn.Linear)), default=1)
    outputs = 4 * example[0] * len(layers) * widest * pixels
    return FLOAT * (weights * (2 + _states(config)) + outputs + 2 * example.numel())


def _states(config: Config) -> int:
    """Numbers that the optimiser keeps per weight."""
    o = config.optimisation.build()
    return (int(o.momentum > 0) if o.name == "sgd" else 2) + int(o.ema is not None)


def _parts(config: Config, built: BlockLocal, example: torch.Tensor) -> dict[str, int]:
    sizes = [sum(p.numel() for p in learner.parameters()) for learner in built.learners]
    parts = {"weights": FLOAT * sum(sizes)}
    if not len(example):
        return parts
    together = sum if built.rule.whole else max
    outputs = _outputs(built, example)
    if config.learning.rule != "frozen":
        parts |= {"gradients": FLOAT * together(sizes), "optimiser": FLOAT * sum(sizes) * _states(config)}
    width = 2 if config.machine.precision in ("bfloat16", "float16") else FLOAT
    return parts | {"activations": width * together(outputs), "batch": example.element_size() * example.numel()}


def _outputs(network: BlockLocal, example: torch.Tensor) -> list[int]:
    """Numbers that the weighted layers of every learner put out for a batch."""
    counts: list[int] = []

    def count(layer: nn.Module, given: object, made: torch.Tensor) -> None:
        counts[-1] += made.numel()

    hooks = [layer.register_forward_hook(count) for layer in network.modules() if isinstance(layer, WEIGHTED)]
    a: Any = example
    with torch.no_grad():
        for learner in network.learners:
            counts.append(0)
            a = learner(a)
    for hook in hooks:
        hook.remove()
    return counts
