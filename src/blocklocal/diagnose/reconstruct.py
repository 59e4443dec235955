"""What a block's output still tells about the input: the share of the image that a linear map gets back.

From the units at one position to the pixels under it, by ridge regression in closed form. Only sums over images are
kept, in float64, so memory does not grow with their number.

B images, H × W pixels, h × w positions; R rows (B·h·w), U units, P pixel values.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass
class Moments:
    """Sums over rows: count, units [U], pixels [P], units² [U, U], units·pixels [U, P], pixels² (a number)."""

    count: int
    units: Tensor
    pixels: Tensor
    within: Tensor
    across: Tensor
    power: Tensor

    @classmethod
    def of(cls, units: Tensor, pixels: Tensor) -> "Moments":
        """The sums of rows [R, U] and [R, P]."""
        u, p = units.double(), pixels.double()
        return cls(len(u), u.sum(0), p.sum(0), u.T @ u, u.T @ p, p.square().sum())

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(
            self.count + other.count,
            self.units + other.units,
            self.pixels + other.pixels,
            self.within + other.within,
            self.across + other.across,
            self.power + other.power,
        )


def rows(a: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
    """A block's output [B, U, h, w] (or [B, D]) and images [B, C, H, W] as rows: units [R, U] and pixels [R, P].

    Maps: one row per position, with the pixels of its patch, ⌈H/h⌉ × ⌈W/w⌉; where the sides do not divide, the image is
    scaled to the nearest multiple. Flat outputs: one row per image, with all its pixels.
    """
    if a.dim() == 2:
        return a, image.flatten(1)
    (batch, channels, *_), (down, along) = image.shape, a.shape[2:]
    high, wide = -(-image.shape[2] // down), -(-image.shape[3] // along)
    if image.shape[2:] != (down * high, along * wide):
        image = F.interpolate(image, size=(down * high, along * wide), mode="area")
    patches = image.reshape(batch, channels, down, high, along, wide).permute(0, 2, 4, 1, 3, 5)
    units = a.permute(0, 2, 3, 1)
    return units.reshape(batch * down * along, -1), patches.reshape(batch * down * along, -1)


def ridge(fit: Moments) -> tuple[Tensor, Tensor]:
    """(map [U, P], offset [P]) that minimise ‖pixels − units·map − offset‖² + strength·R·‖map‖².

    The strength is U/R times the mean variance of a unit: next to nothing where there are many rows per unit.
    """
    mean_units, mean_pixels = fit.units / fit.count, fit.pixels / fit.count
    spread = fit.within / fit.count - torch.outer(mean_units, mean_units)
    shared = fit.across / fit.count - torch.outer(mean_units, mean_pixels)
    size = len(mean_units)
    strength = spread.diagonal().mean().clamp(min=1e-12) * size / fit.count
    weight = torch.linalg.solve(spread + strength * torch.eye(size, dtype=spread.dtype, device=spread.device), shared)
    return weight, mean_pixels - mean_units @ weight


def explained(fit: Moments, held: Moments) -> float:
    """Percent of the held-out pixels' power that the map fitted on `fit` explains; below 0 where it does harm.

    Give pixels less their mean image: their power is then the variance, and an output that never changes explains 0.
    """
    weight, offset = ridge(fit)
    predicted = (weight * (held.within @ weight)).sum() + 2 * offset @ (held.units @ weight)
    predicted = predicted + held.count * offset.square().sum()
    agreement = (weight * held.across).sum() + offset @ held.pixels
    if held.power <= 0:
        return 0.0
    return 100.0 * (1 - (held.power - 2 * agreement + predicted) / held.power).item()
