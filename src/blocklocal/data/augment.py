"""Augmentation as tensor functions on whole batches [B, C, H, W] of any number type, on the batch's device.

Random numbers are drawn on the CPU generator and moved, so that CPU and CUDA runs see the same pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from blocklocal._common.errors import InputError
from blocklocal._common.ranges import FROM_ONE, check_range
from blocklocal._common.registry import Registry
from blocklocal.data.randaugment import STRENGTH, randaugment
from blocklocal.data.warp import LEAST_AREA, random_resized_crop

Augment = Callable[[Tensor, torch.Generator], Tensor]

_CROP_SHARE = 8  # default padding is a side's eighth: the customary 4 pixels for 32 x 32
_CUTOUT_SHARE = 2  # default square is half a side: DeVries & Taylor (arXiv 1708.04552) for CIFAR-10


def random_flip(x: Tensor, generator: torch.Generator, probability: float = 0.5) -> Tensor:
    """Mirror each image left to right with `probability`."""
    flips = torch.rand(len(x), generator=generator) < probability
    return torch.where(flips.to(x.device)[:, None, None, None], x.flip(-1), x)


def random_crop(
    x: Tensor, padding: int, generator: torch.Generator, *, fill: float | Sequence[float] = 0.0, reflect: bool = False
) -> Tensor:
    """Shift each image by up to `padding` pixels in each direction; the shape stays.

    Args:
        fill: what comes in from outside: one value, or one per channel (black in normalised pixels is -mean/std).
        reflect: mirror the picture at its edge instead.

    Raises:
        InputError: the padding is below 0, or a reflection is wider than the image.
    """
    if padding == 0:
        return x
    check_range("padding", padding, FROM_ONE)
    padded = _reflect_pad(x, padding) if reflect else _constant_pad(x, padding, fill)
    height, width = x.shape[2:]
    top, left = torch.randint(0, 2 * padding + 1, (2, len(x)), generator=generator).to(x.device)
    # every window of the padded image as a view [B, 2p+1, 2p+1, C, H, W]: nothing is copied but the windows chosen
    windows = padded.unfold(2, height, 1).unfold(3, width, 1).permute(0, 2, 3, 1, 4, 5)
    return windows[torch.arange(len(x), device=x.device), top, left]


def cutout(x: Tensor, size: int, generator: torch.Generator, *, fill: float | Sequence[float] = 0.0) -> Tensor:
    """Paint a `size` x `size` square of each image with `fill` (DeVries & Taylor, arXiv 1708.04552).

    As there, the centre is any pixel, so that part of the square may lie outside.

    Raises:
        InputError: the square is larger than the image.
    """
    check_range("size", size, FROM_ONE)
    height, width = x.shape[2:]
    if size > min(height, width):
        raise InputError(
            f"cutout size {size} is larger than the image ({height}x{width}). Use at most its shorter side."
        )
    inside = [_covered(side, size, len(x), generator).to(x.device) for side in (height, width)]
    square = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    return torch.where(square, _fill_values(x, fill), x)


def augmenter(names: str | Sequence[str], fill: float | Sequence[float] = 0.0) -> Augment:
    """One function (x, generator) -> x that applies the named augmentations in order.

    Args:
        names: like "crop,flip,cutout", or a sequence of such names; "" is none. A size in pixels may follow a colon:
            "crop:4". The default is an eighth of the shorter side for "crop" and "reflect" (a crop that mirrors the
            edge), half of it for "cutout". "resized" cuts out a random part and enlarges it; the number is the smallest
            share of its area in percent (8). "randaugment" changes an image in two of 14 ways; the number is their
            strength, from 1 to 30 (9).
        fill: see `random_crop`.

    Raises:
        InputError: a name is unknown, or a size is not a whole number.
    """
    parts = names.split(",") if isinstance(names, str) else list(names)
    steps = [_step(part.strip(), fill) for part in parts if part.strip()]

    def augment(x: Tensor, generator: torch.Generator) -> Tensor:
        for step in steps:
            x = step(x, generator)
        return x

    return augment


# An augmentation by name: (size in pixels or None, fill) -> Augment.
AUGMENTATIONS: Registry[Callable[[int | None, float | Sequence[float]], Augment]] = Registry("augmentation")
AUGMENTATIONS.add("flip", lambda size, fill: random_flip)
AUGMENTATIONS.add("crop", lambda size, fill: lambda x, g: random_crop(x, _share(x, size, _CROP_SHARE), g, fill=fill))
AUGMENTATIONS.add(
    "reflect", lambda size, fill: lambda x, g: random_crop(x, _share(x, size, _CROP_SHARE), g, reflect=True)
)
AUGMENTATIONS.add("cutout", lambda size, fill: lambda x, g: cutout(x, _share(x, size, _CUTOUT_SHARE), g, fill=fill))


AUGMENTATIONS.add(
    "resized",
    lambda share, fill: lambda x, g: random_resized_crop(x, g, LEAST_AREA if share is None else min(share, 100) / 100),
)
AUGMENTATIONS.add("randaugment", lambda strength, fill: lambda x, g: randaugment(x, g, strength or STRENGTH))


def _step(part: str, fill: float | Sequence[float]) -> Augment:
    name, colon, size = part.partition(":")
    make = AUGMENTATIONS.get(name.strip())
    if colon and (not size.strip().isdecimal() or int(size) == 0 or name.strip() == "flip"):
        raise InputError(
            f"cannot use augmentation {part!r}. Write crop:4, reflect:4 or cutout:16, with a size in pixels; "
            "resized:25, with a share in percent; or randaugment:9, with a strength up to 30."
        )
    return make(int(size) if colon else None, fill)


def _share(x: Tensor, size: int | None, share: int) -> int:
    return max(1, min(x.shape[2:]) // share) if size is None else size


def _fill_values(x: Tensor, fill: float | Sequence[float]) -> Tensor:
    return torch.tensor(fill, device=x.device).to(x.dtype).reshape(-1, 1, 1)


def _constant_pad(x: Tensor, padding: int, fill: float | Sequence[float]) -> Tensor:
    batch, channels, height, width = x.shape
    shape = (batch, channels, height + 2 * padding, width + 2 * padding)
    padded = _fill_values(x, fill).expand(shape).clone()
    padded[:, :, padding : padding + height, padding : padding + width] = x
    return padded


def _reflect_pad(x: Tensor, padding: int) -> Tensor:
    if padding >= min(x.shape[2:]):
        raise InputError(f"reflect padding {padding} must be less than the image's sides {list(x.shape[2:])}.")
    rows, columns = (torch.arange(-padding, side + padding, device=x.device).abs() for side in x.shape[2:])
    rows, columns = (side - 1 - (side - 1 - i).abs() for side, i in zip(x.shape[2:], (rows, columns), strict=True))
    return x[:, :, rows][:, :, :, columns]


def _covered(side: int, size: int, batch: int, generator: torch.Generator) -> Tensor:
    """bool [batch, side]: the pixels of one axis that a square with a random centre covers."""
    start = torch.randint(0, side, (batch, 1), generator=generator) - size // 2
    pixel = torch.arange(side)
    return (pixel >= start) & (pixel < start + size)
