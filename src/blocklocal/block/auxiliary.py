"""What a block may add to its local loss: a reconstruction, a similarity term (method §3).

Each is a small network or function of its own; none is on the forward path.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from blocklocal.block.readouts import space_of
from blocklocal.block.shapes import is_map, to_positions
from blocklocal.block.target import weighted_mean


class Decoder(nn.Module):
    """Predicts a wanted tensor (the image, or the block's input) from the block's mean activation (paper Fig. 2D).

    Maps → maps: BatchNorm, and two 3×3 convolutions at the block's own resolution. Otherwise two dense layers. Without
    the norm the size of a residual stream, which nothing bounds, makes the loss jump at usual learning rates
    (`experiments/accuracy`).

    Args:
        hidden: channels or units between the two layers.
        line: maps are lines, one pixel wide.
    """

    def __init__(self, given: torch.Size, wanted: torch.Size, hidden: int = 32, line: bool = False):
        super().__init__()
        self.maps = is_map(given) and len(given) == len(wanted)
        if self.maps:
            space = space_of(given, line)
            first, second = space.conv(given[1], hidden), space.conv(hidden, wanted[1])
            layers = [space.norm(given[1]), first, nn.ReLU(), second]
        else:
            layers = [nn.Linear(given[1:].numel(), hidden), nn.ReLU(), nn.Linear(hidden, wanted[1:].numel())]
        self.layers = nn.Sequential(*layers)

    def forward(self, h: Tensor) -> Tensor:
        return self.layers(h if self.maps else h.flatten(1))

    def loss(self, h: Tensor, wanted: Tensor, weight: Tensor | None = None) -> Tensor:
        """Mean squared error: D_KL(data ‖ prediction) per value between Gaussians of variance ½.

        Args:
            weight: of every sample, [B], or of its positions, [B, …], of which the mean counts.
        """
        predicted = self(h)
        if self.maps:
            wanted = F.interpolate(wanted, size=predicted.shape[2:], mode="area")
        if weight is None:
            return F.mse_loss(predicted, wanted.reshape(predicted.shape))
        each = (predicted - wanted.reshape(predicted.shape)).square().flatten(1).mean(1)
        return weighted_mean(each, weight.float().flatten(1).mean(1) if weight.dim() > 1 else weight.float())


def similarity(h: Tensor, one_hot: Tensor, weight: Tensor | None = None) -> Tensor:
    """Similarity matching: the mean squared difference of two B × B matrices of cosine similarities.

    A sample without a target, a row of zeros, is in no pair (Nøkland & Eidnes 2019, eq. 3, 4).

    Args:
        h: the block's features [B, …]; of maps, their standard deviation over positions counts.
        one_hot: the targets, [B, R] or [B, T, R].
        weight: of every target, [B] or [B, T]; a pair counts as the product of its two.
    """
    wanted = one_hot.flatten(1)
    there = wanted.any(1).to(wanted.dtype)
    if weight is not None:
        there = there * weight.flatten(1).mean(1) if weight.dim() > 1 else there * weight
    pairs = there.unsqueeze(1) * there
    units = to_positions(h)
    features = units.std(1) if units.shape[1] > 1 else units.squeeze(1)
    error = _cosines(features - features.mean(1, keepdim=True)) - _cosines(wanted)
    if weight is not None:
        return weighted_mean(error.square(), pairs)
    return (pairs * error.square()).sum() / pairs.sum().clamp(min=1)


def _cosines(x: Tensor) -> Tensor:
    unit = F.normalize(x, dim=1, eps=1e-6)
    return unit @ unit.T
