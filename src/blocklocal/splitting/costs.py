"""What a piece costs: seconds, floating-point operations, or bytes kept for its backward pass."""

import time
from collections.abc import Callable, Sequence
from statistics import median

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from blocklocal._common.errors import InputError, unknown
from blocklocal._common.memory import saved_bytes
from blocklocal._common.message import Given, Input, hidden_of, lead, map_message
from blocklocal.splitting.copying import copy_in_mode

_REPEATS = 5


def piece_costs(pieces: Sequence[nn.Module], example: Input, kind: str) -> list[float]:
    """The cost of one training step (forward and backward) of each piece on `example`, [B, ...].

    It works on copies in training mode, one piece at a time: weights, gradients, BatchNorm statistics and the state of
    the random generators stay as they were.

    Args:
        pieces: modules applied one after the other; the first takes `example`.
        example: a batch of the size and on the device used in training.
        kind: "time" (seconds, median of a few runs), "flops" (floating-point operations), or "bytes" (what autograd
            keeps between forward and backward, without parameters and buffers).

    Raises:
        InputError: the kind is unknown, or a piece does not take what reaches it.
    """
    measure = _MEASURES.get(kind)
    if measure is None:
        raise unknown("cost", kind, _MEASURES)
    device = lead(example).device
    devices = [device] if device.type == "cuda" else []
    costs: list[float] = []
    x: Given = map_message(Tensor.detach, example)
    with torch.random.fork_rng(devices=devices), torch.enable_grad():
        for position, piece in enumerate(pieces):
            trial = copy_in_mode(piece, training=True)
            try:
                costs.append(measure(trial, x))
                with torch.no_grad():
                    x = trial(x)
            except (RuntimeError, TypeError, ValueError) as reason:
                raise InputError(
                    f"piece {position} of {len(pieces)} cannot be trained on the example, which reaches it with shape "
                    f"{list(lead(x).shape)}: {reason}. Give a training batch of the shape and device of the model."
                ) from reason
    return costs


def _step(piece: nn.Module, x: Given) -> None:
    """Forward and backward, with a fresh input that wants a gradient where it can have one."""
    output = hidden_of(piece(_fresh(x)))
    if output.requires_grad:
        torch.autograd.backward(output, torch.ones_like(output))


def _fresh(x: Given) -> Given:
    # A clone, because a piece may work in place on what it gets, and may not do so on a leaf.
    return map_message(lambda t: t.detach().requires_grad_(t.is_floating_point()).clone(), x)


def _seconds(piece: nn.Module, x: Given) -> float:
    def once() -> float:
        synchronize(x)
        start = time.perf_counter()
        _step(piece, x)
        synchronize(x)
        return time.perf_counter() - start

    once()  # the first run also allocates and chooses kernels
    return median(once() for _ in range(_REPEATS))


def synchronize(x: Given) -> None:
    """Wait until the device of a message has done all it was given: before and after what is timed."""
    device = lead(x).device
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _flops(piece: nn.Module, x: Given) -> float:
    with FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION) as counter:
        _step(piece, x)
    return float(counter.get_total_flops())


def _bytes(piece: nn.Module, x: Given) -> float:
    x = _fresh(x)
    with saved_bytes(piece) as kept:
        output = piece(x)
        peak = kept.peak
    del output
    return float(peak)


def _attention_forward(query: torch.Size, key: torch.Size, value: torch.Size, *_: object, **__: object) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward(
    grad: torch.Size, query: torch.Size, key: torch.Size, value: torch.Size, *_: object, **__: object
) -> int:
    return sdpa_backward_flop_count(grad, query, key, value)


# torch 2.13 counts no operations for attention on the CPU (pytorch#195460).
_CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_forward,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
_MEASURES: dict[str, Callable[[nn.Module, Given], float]] = {"time": _seconds, "flops": _flops, "bytes": _bytes}
COSTS = tuple(_MEASURES)
