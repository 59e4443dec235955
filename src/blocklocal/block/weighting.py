"""Weights of samples and of positions, and means under them."""

import torch
from torch import Tensor


def spread_shape(values: Tensor) -> torch.Size:
    """The shape that weights have where every position has its own."""
    if not values.is_floating_point():
        return values.shape
    return torch.Size((len(values), *values.shape[2:])) if values.dim() > 3 else values.shape[:-1]


def units_last(output: Tensor) -> Tensor:
    """Maps [B, C, H, W] → [B, H, W, C]; anything else as it is."""
    return output.movedim(1, -1) if output.dim() > 3 else output


def weighted_mean(each: Tensor, weight: Tensor) -> Tensor:
    """Σ weight · each / Σ weight; 0 where all weights are 0. So a sample of weight 2 counts as two equal samples do."""
    total = weight.sum()
    return (each * weight).sum() / torch.where(total > 0, total, torch.ones_like(total))


def mean_of_real(each: Tensor, mask: Tensor | None) -> Tensor:
    """The mean over positions, [B, P, …] → [B, …]; with a mask, [B, P] or of more axes, over those that are real."""
    if mask is None:
        return each.mean(1)
    real = mask.view(*mask.shape, *(1 for _ in each.shape[mask.dim() :]))
    return torch.where(real, each, 0).sum(1) / real.sum(1).clamp(min=1)


def of_samples(weight: Tensor, real: Tensor | None = None) -> Tensor:
    """Weights of samples, [B]; of positions, [B, …], their mean, over those that are real where that is said."""
    weight = weight.float()
    if weight.dim() == 1:
        return weight
    if real is not None and real.shape == weight.shape:
        return mean_of_real(weight.flatten(1), real.flatten(1))
    return weight.flatten(1).mean(1)


def spread(weight: Tensor, like: Tensor) -> Tensor:
    """Weights of samples [B], or of positions, in the shape of `like`, whose first axes they have."""
    return weight.view(*weight.shape, *(1 for _ in like.shape[weight.dim() :])).expand_as(like).float()
