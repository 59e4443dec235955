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
    """The shape after every module of a chain; modes and statistics stay as they are."""
    modes = {m: m.training for module in modules for m in module.modules()}
    shapes, a = [], example
    try:
        with torch.no_grad():
            for module in modules:
                a = module.eval()(a)
                shapes.append(a.shape)
    finally:
        for m, mode in modes.items():
            m.training = mode
    return shapes
