"""One view of every activation: positions × units, whatever the network's own layout is.

[B, D]        flat latents            → [B, 1, D]
[B, T, D]     sequences               → [B, T, D]
[B, C, H, W]  feature maps            → [B, H·W, C]
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from blocklocal.errors import InputError


def to_positions(a: Tensor) -> Tensor:
    """[B, D], [B, T, D] or [B, C, H, W] → [B, P, units]."""
    if a.dim() == 2:
        return a.unsqueeze(1)
    if a.dim() == 3:
        return a
    if a.dim() == 4:
        return a.flatten(2).transpose(1, 2)
    raise InputError(
        f"a block gave an activation of shape {list(a.shape)}; expected [B, D], [B, T, D] or [B, C, H, W]: "
        "cut elsewhere."
    )


def from_positions(h: Tensor, like: Tensor) -> Tensor:
    """The inverse of `to_positions` for an activation of the shape of `like`."""
    if like.dim() == 2:
        return h.squeeze(1)
    return h if like.dim() == 3 else h.transpose(1, 2).reshape(like.shape)


def units_of(shape: torch.Size) -> int:
    """Latent units per position of an activation of this shape (batch dimension included)."""
    return shape[1] if len(shape) in (2, 4) else shape[-1]


def output_shapes(modules: Sequence[nn.Module], example: Tensor) -> list[torch.Size]:
    """The shape after every module of a chain; modes and statistics stay as they are.

    Raises InputError where a module does not run on what reaches it, or gives something else than one tensor.
    """
    modes = {m: m.training for module in modules for m in module.modules()}
    shapes, a = [], example
    try:
        with torch.no_grad():
            for k, module in enumerate(modules):
                module.eval()
                a = _output(module, a, f"block {k + 1} of {len(modules)}")
                shapes.append(a.shape)
    finally:
        for m, mode in modes.items():
            m.training = mode
    return shapes


def _output(module: nn.Module, a: Tensor, name: str) -> Tensor:
    try:
        output = module(a)
    except Exception as reason:  # a user's own forward may fail in any way
        lines = str(reason).strip().split("\n")
        raise InputError(
            f"{name} cannot run on what reaches it, shape {list(a.shape)} and {a.dtype}{_of_another_type(module, a)}: "
            f"{type(reason).__name__}: {lines[0]}. Give inputs that the model takes, or build it for these."
        ) from reason
    if not isinstance(output, Tensor):
        raise InputError(f"{name} gives {type(output).__name__}: every block, and the model, must give one tensor.")
    return output


def _of_another_type(module: nn.Module, a: Tensor) -> str:
    """A word where the weights have another precision, or lie elsewhere, than what reaches them."""
    for p in module.parameters():
        if a.is_floating_point() and p.is_floating_point() and p.dtype != a.dtype:
            return f" (its weights are {p.dtype})"
        if p.device != a.device:
            return f" (its weights are on {p.device}, the input on {a.device})"
    return ""
