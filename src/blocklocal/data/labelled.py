"""Learning from few labels: the labels of a share of the training samples are kept, all others are not known."""

import torch
from torch import Tensor

from blocklocal._common.errors import InputError
from blocklocal._common.seeds import generator
from blocklocal.data.answers import UNKNOWN


def keep_labels(labels: Tensor, share: float, seed: int) -> Tensor:
    """The same with this share of every class, at least one of it, and `UNKNOWN` (-100) for the others.

    A smaller share keeps a part of what a larger one keeps.

    Args:
        labels: int64 [N], numbers of classes.
        share: above 0, at most 1.
        seed: which ones are kept.

    Raises:
        InputError: the samples have no class each.
    """
    if labels.dim() != 1 or labels.is_floating_point():
        raise InputError(
            "--labelled keeps the labels of a share of every class, and these samples have not one class each: leave "
            "it out."
        )
    order = torch.randperm(len(labels), generator=generator("labelled", seed))
    kept = torch.zeros(len(labels), dtype=torch.bool)
    for c in labels.unique():
        own = order[labels[order] == c]
        kept[own[: max(1, round(share * len(own)))]] = True
    return torch.where(kept, labels, UNKNOWN)
