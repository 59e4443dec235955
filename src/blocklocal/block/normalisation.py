"""How the output of a block is normalised before its local loss reads it as natural parameters.

    units   over the units of a position (LayerNorm without parameters): what the next pre-norm residual block reads
    batch   every unit of every position over the batch (BatchNorm without parameters, with running statistics)

Neither is on the forward path. A residual stream carries what later blocks need, and a loss that is small where units
are saturated can be met by adding one large constant to it. Over units only its size is fixed; over the batch whatever
is common to all samples is taken out, so that a block must tell samples apart to change its latent at all.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blocklocal._common.errors import InputError
from blocklocal.block.shapes import from_positions, to_positions


def one_value(where: str) -> str:
    """What a BatchNorm says that gets one value per channel in training.

    Args:
        where: block and layer.
    """
    return (
        f"{where} gets one value per channel from a training batch of one sample, and BatchNorm needs two: give larger "
        "batches (in a DataLoader drop_last=True leaves out a smaller last one)."
    )


class OverUnits(nn.Module):
    """[B, …] → the same shape, with mean 0 and variance 1 over the units of every position."""

    def forward(self, a: Tensor) -> Tensor:
        h = to_positions(a)
        return from_positions(F.layer_norm(h, h.shape[-1:]), a)


class OverBatch(nn.Module):
    """[B, …] → the same shape, with mean 0 and variance 1 over the batch; over what was seen before, in evaluation."""

    def __init__(self, shape: torch.Size):
        super().__init__()
        self.norm = nn.BatchNorm1d(shape[1:].numel(), affine=False)

    def forward(self, a: Tensor) -> Tensor:
        flat, values = a.flatten(1).float(), self.norm.num_features
        if flat.shape[1] != values:
            raise InputError(
                f"a block gave {flat.shape[1]} values per sample where normalise='batch' has statistics of {values}: "
                "give sequences and images of one size, or normalise='units'."
            )
        return self.norm(flat).reshape(a.shape)


def normaliser(kind: str, shape: torch.Size) -> nn.Module | None:
    """The module of that name for outputs of this shape [B, …]; None for "none"."""
    return {"none": lambda: None, "units": OverUnits, "batch": lambda: OverBatch(shape)}[kind]()
