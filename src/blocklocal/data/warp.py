"""Images drawn anew from other places of themselves: cut out and enlarged, turned, sheared, shifted.

Shapes: B images, C channels, H rows, W columns; a map is [B, 2, 3], from places of the result to places of the image,
both from -1 to 1.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from blocklocal._common.ranges import Range, check_range

ASPECT = (3 / 4, 4 / 3)  # of what is cut out: Szegedy et al. (arXiv 1409.4842)
LEAST_AREA = 0.08
AREA = Range(0, 1, above=True)


def random_resized_crop(x: Tensor, generator: torch.Generator, least: float = LEAST_AREA) -> Tensor:
    """Cut a random part out of each image and enlarge it (bilinear) to the size that the images have.

    Args:
        x: [B, C, H, W] of any number type.
        generator: of the random numbers.
        least: the smallest share of an image's area that is cut out.

    Raises:
        InputError: least is no share.
    """
    check_range("least", least, AREA)
    share, aspect, across, down = torch.rand(4, len(x), generator=generator)
    area = least + (1 - least) * share
    low, high = map(math.log, ASPECT)
    stretch = (low + (high - low) * aspect).exp()
    width, height = (area * stretch).sqrt().clamp_max(1), (area / stretch).sqrt().clamp_max(1)
    maps = torch.zeros(len(x), 2, 3)
    maps[:, 0, 0], maps[:, 1, 1] = width, height
    maps[:, 0, 2], maps[:, 1, 2] = (2 * across - 1) * (1 - width), (2 * down - 1) * (1 - height)
    return warped(x, maps, padding="border")


def warped(x: Tensor, maps: Tensor, padding: Literal["zeros", "border"] = "zeros") -> Tensor:
    """Each image seen through its map, bilinear.

    On a GPU a whole-numbered pixel may differ by one level from the CPU's.

    Args:
        x: [B, C, H, W] of any number type.
        maps: [B, 2, 3].
        padding: what comes in from outside: black, or the picture's edge.
    """
    grid = F.affine_grid(maps.to(x.device), list(x.shape), align_corners=False)
    return as_type(F.grid_sample(x.float(), grid, padding_mode=padding, align_corners=False), x)


def as_type(values: Tensor, like: Tensor) -> Tensor:
    """Floats in the number type of `like`; whole numbers are rounded and stay pixels."""
    return values.to(like.dtype) if like.is_floating_point() else values.round().clamp(0, 255).to(like.dtype)
