"""RandAugment (Cubuk et al., arXiv 1909.13719): each image is changed in a few ways, chosen at random, of one strength.

Every operation is a function of float pixels 0 … 255, [B, C, H, W], and strengths [B] from -1 to 1, whose sign is
drawn; where an operation has no sign it takes the size. At full strength (30) a picture is turned by 30 degrees.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from blocklocal._common.ranges import FROM_ONE, check_range, whole
from blocklocal.data.warp import as_type, warped

OPERATIONS_EACH = 2
STRENGTH, STRONGEST = 9, 30
_DEGREES, _SHEAR, _SHIFT, _BLEND = 30.0, 0.3, 0.9, 0.9  # at full strength; a shift counts in half sides
_LOST_BITS = 4
_GREY = (0.299, 0.587, 0.114)
_SMOOTH = 13.0  # the sum of the kernel 1 1 1 / 1 5 1 / 1 1 1

Operation = Callable[[Tensor, Tensor], Tensor]


def randaugment(
    x: Tensor, generator: torch.Generator, strength: int = STRENGTH, count: int = OPERATIONS_EACH
) -> Tensor:
    """Change each image in `count` ways.

    Args:
        x: pixels [B, C, H, W], 0 … 255.
        generator: of the random numbers.
        strength: from 1 to 30.
        count: operations that follow each other.

    Raises:
        InputError: strength or count are out of their range.
    """
    check_range("strength", strength, whole(1, STRONGEST))
    check_range("count", count, FROM_ONE)
    changed = x.float()
    for _ in range(count):
        chosen = torch.randint(len(OPERATIONS), (len(x),), generator=generator)
        signs = 2 * torch.randint(2, (len(x),), generator=generator) - 1
        amounts = (signs * (strength / STRONGEST)).to(x.device)
        for number, operation in enumerate(OPERATIONS.values()):
            places = (chosen == number).nonzero().flatten().to(x.device)
            if len(places):
                some = operation(changed[places], amounts[places])
                changed[places] = some.round().clamp(0, 255)
    return as_type(changed, x)


def _maps(x: Tensor) -> Tensor:
    return torch.eye(2, 3, device=x.device).repeat(len(x), 1, 1)


def rotate(x: Tensor, amount: Tensor) -> Tensor:
    """Turn, around the middle."""
    angle, (height, width) = amount * math.radians(_DEGREES), x.shape[2:]
    maps = _maps(x)
    maps[:, 0, 0] = maps[:, 1, 1] = angle.cos()
    maps[:, 0, 1], maps[:, 1, 0] = -angle.sin() * height / width, angle.sin() * width / height
    return warped(x, maps)


def _sheared(row: int) -> Operation:
    def shear(x: Tensor, amount: Tensor) -> Tensor:
        maps = _maps(x)
        maps[:, row, 1 - row] = amount * _SHEAR
        return warped(x, maps)

    return shear


def _shifted(row: int) -> Operation:
    def shift(x: Tensor, amount: Tensor) -> Tensor:
        maps = _maps(x)
        maps[:, row, 2] = amount * _SHIFT
        return warped(x, maps)

    return shift


def _grey(x: Tensor) -> Tensor:
    if x.shape[1] != len(_GREY):
        return x.mean(1, keepdim=True)
    return (x * torch.tensor(_GREY, device=x.device).view(-1, 1, 1)).sum(1, keepdim=True)


def _blend(x: Tensor, other: Tensor, amount: Tensor) -> Tensor:
    """Away from `other` where the amount is above 0, towards it below."""
    return other + (1 + _BLEND * amount).view(-1, 1, 1, 1) * (x - other)


def brightness(x: Tensor, amount: Tensor) -> Tensor:
    """Lighter or darker."""
    return _blend(x, torch.zeros_like(x), amount)


def colour(x: Tensor, amount: Tensor) -> Tensor:
    """More colourful, or greyer."""
    return _blend(x, _grey(x).expand_as(x), amount)


def contrast(x: Tensor, amount: Tensor) -> Tensor:
    """Away from the mean grey, or towards it."""
    return _blend(x, _grey(x).mean((2, 3), keepdim=True).expand_as(x), amount)


def sharpness(x: Tensor, amount: Tensor) -> Tensor:
    """Sharper, or smoother; the edge stays."""
    if min(x.shape[2:]) < 3:
        return x
    smooth = x.clone()
    inner = F.avg_pool2d(x, 3, 1) * 9 + 4 * x[:, :, 1:-1, 1:-1]
    smooth[:, :, 1:-1, 1:-1] = inner / _SMOOTH
    return _blend(x, smooth, amount)


def posterize(x: Tensor, amount: Tensor) -> Tensor:
    """Fewer bits."""
    step = 2 ** (amount.abs() * _LOST_BITS).round().view(-1, 1, 1, 1)
    return (x / step).floor() * step


def solarize(x: Tensor, amount: Tensor) -> Tensor:
    """The brightest pixels inverted."""
    return torch.where(x >= 256 * (1 - amount.abs()).view(-1, 1, 1, 1), 255 - x, x)


def autocontrast(x: Tensor, amount: Tensor) -> Tensor:
    """Every channel from black to white."""
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    return torch.where(high > low, (x - low) * 255 / (high - low).clamp_min(1), x)


def equalize(x: Tensor, amount: Tensor) -> Tensor:
    """All levels equally often in every channel."""
    flat = x.round().long().clamp(0, 255).flatten(2).flatten(0, 1)  # [B·C, H·W]
    counts = torch.zeros(len(flat), 256, device=x.device, dtype=torch.long)
    counts.scatter_add_(1, flat, torch.ones_like(flat))
    last = counts.gather(1, flat.amax(1, keepdim=True))
    step = (flat.shape[1] - last).div(255, rounding_mode="floor")
    table = (counts.cumsum(1) - counts + step.div(2, rounding_mode="floor")).div(
        step.clamp_min(1), rounding_mode="floor"
    )
    table = torch.where(step > 0, table.clamp(0, 255), torch.arange(256, device=x.device))
    return table.gather(1, flat).float().view_as(x)


OPERATIONS: dict[str, Operation] = {
    "identity": lambda x, amount: x,
    "autocontrast": autocontrast,
    "equalize": equalize,
    "rotate": rotate,
    "solarize": solarize,
    "colour": colour,
    "posterize": posterize,
    "contrast": contrast,
    "brightness": brightness,
    "sharpness": sharpness,
    "shear across": _sheared(0),
    "shear down": _sheared(1),
    "shift across": _shifted(0),
    "shift down": _shifted(1),
}
