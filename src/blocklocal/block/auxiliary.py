"""What a block may add to its local loss: a reconstruction, a similarity term (method §3).

Each is a small network or function of its own; none is on the forward path.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from blocklocal.block.readouts import space_of
from blocklocal.block.shapes import is_map, to_positions
from blocklocal.block.weighting import mean_of_real, of_samples, weighted_mean


class Reconstructor(nn.Module):
    """Predicts a wanted tensor (the image, or the block's input) from the block's mean activation (paper Fig. 2D).

    Maps → maps: BatchNorm, and two 3×3 convolutions at the block's own resolution. Sequence → sequence: at every
    position LayerNorm and two dense layers, a quarter as wide between them (LoPT, arXiv 2605.04913). Otherwise two
    dense layers. Without the norm the size of a residual stream, which nothing bounds, makes the loss jump at usual
    learning rates (`experiments/accuracy`).

    Args:
        hidden: channels or units between the two layers.
        line: maps are lines, one pixel wide.
    """

    def __init__(self, given: torch.Size, wanted: torch.Size, hidden: int = 32, line: bool = False):
        super().__init__()
        self.maps = is_map(given) and len(given) == len(wanted)
        self.positions = len(given) == len(wanted) == 3 and given[1] == wanted[1]
        if self.maps:
            space = space_of(given, line)
            first, second = space.conv(given[1], hidden), space.conv(hidden, wanted[1])
            layers = [space.norm(given[1]), first, nn.ReLU(), second]
        elif self.positions:
            narrow = max(1, given[-1] // 4)
            layers = [nn.LayerNorm(given[-1]), nn.Linear(given[-1], narrow), nn.GELU(), nn.Linear(narrow, wanted[-1])]
        else:
            layers = [nn.Linear(given[1:].numel(), hidden), nn.ReLU(), nn.Linear(hidden, wanted[1:].numel())]
        self.layers = nn.Sequential(*layers)

    def forward(self, h: Tensor) -> Tensor:
        return self.layers(h if self.maps or self.positions else h.flatten(1))

    def loss(self, h: Tensor, wanted: Tensor, mask: Tensor | None = None, weight: Tensor | None = None) -> Tensor:
        """Mean squared error: D_KL(data ‖ prediction) per value between Gaussians of variance ½.

        Args:
            mask: [B, T] of a sequence h [B, T, D], true where a position is real: others are neither read nor wanted.
            weight: of every sample, [B], or of its positions, [B, …], of which the mean counts.
        """
        if mask is not None:
            h = torch.where(mask.unsqueeze(-1), h, 0)
        predicted = self(h)
        if self.maps:
            wanted = F.interpolate(wanted, size=predicted.shape[2:], mode="area")
        shape, wanted = wanted.shape, wanted.reshape(predicted.shape)
        counts = None if weight is None else of_samples(weight, mask)
        if mask is None or len(shape) != 3 or shape[:2] != mask.shape:
            if counts is None:
                return F.mse_loss(predicted, wanted)
            return weighted_mean((predicted - wanted).square().flatten(1).mean(1), counts)
        error = (predicted - wanted).square().view(shape).mean(-1)
        return weighted_mean(error, mask if counts is None else mask * counts.unsqueeze(1))


def embedding_of(block: nn.Module) -> nn.Embedding | None:
    """The first embedding of a block, which turns tokens into the numbers that are reconstructed."""
    return next((part for part in block.modules() if isinstance(part, nn.Embedding)), None)


def similarity(h: Tensor, one_hot: Tensor, mask: Tensor | None = None, weight: Tensor | None = None) -> Tensor:
    """Similarity matching: the mean squared difference of two B × B matrices of cosine similarities.

    A sample without a target, a row of zeros, is in no pair (Nøkland & Eidnes 2019, eq. 3, 4).

    Args:
        h: the block's features [B, …]; of maps, their standard deviation over positions counts.
        one_hot: the targets, [B, R] or [B, T, R].
        mask: the positions that count, [B, T]; None for all.
        weight: of every target, [B] or [B, T] (`Targets.weights`); a pair counts as the product of its two.
    """
    wanted = one_hot.flatten(1)
    there = wanted.any(1).to(wanted.dtype)
    if weight is not None:
        there = there * of_samples(weight, one_hot.any(-1))
    pairs = there.unsqueeze(1) * there
    units = to_positions(h)
    if mask is None:
        features = units.std(1) if units.shape[1] > 1 else units.squeeze(1)
    else:
        features = _deviation(units, mask)
    error = _cosines(features - features.mean(1, keepdim=True)) - _cosines(wanted)
    return weighted_mean(error.square(), pairs)


def _deviation(units: Tensor, mask: Tensor) -> Tensor:
    """As `units.std(1)`, over the real positions alone."""
    error = torch.where(mask.unsqueeze(-1), units - mean_of_real(units, mask).unsqueeze(1), 0)
    variance = error.square().sum(1) / (mask.sum(1, keepdim=True) - 1).clamp(min=1)
    return variance.clamp(min=torch.finfo(units.dtype).tiny).sqrt()  # of 0 it has no gradient


def _cosines(x: Tensor) -> Tensor:
    unit = F.normalize(x, dim=1, eps=1e-6)
    return unit @ unit.T
