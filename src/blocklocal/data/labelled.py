"""Learning from few labels: which samples keep theirs, and how often those that have one are seen."""

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
    _check_classes(labels)
    order = torch.randperm(len(labels), generator=generator("labelled", seed))
    kept = torch.zeros(len(labels), dtype=torch.bool)
    for c in labels.unique():
        own = order[labels[order] == c]
        kept[own[: max(1, round(share * len(own)))]] = True
    return torch.where(kept, labels, UNKNOWN)


def repeated(labels: Tensor, share: float) -> Tensor:
    """Positions of an epoch in which samples with a label are at least about this share: all once, those more often.

    A batch of few labels is a loud gradient: semi-supervised learning draws those that have one more often (Sohn et al.
    2020, FixMatch: one in eight; Berthelot et al. 2019, MixMatch: half).

    Args:
        labels: int64 [N].
        share: 0 or more, below 1.

    Returns:
        int64 [M], M ≥ N: whole copies behind one another.

    Raises:
        InputError: no sample has a label, or the samples have no class each.
    """
    _check_classes(labels)
    there = torch.arange(len(labels))
    known = there[labels != UNKNOWN]
    if not len(known):
        raise InputError("--repeat-labelled repeats samples that have a label, and none has one: leave it out.")
    copies = round(share / (1 - share) * (len(labels) - len(known)) / len(known))
    return torch.cat([there, *[known] * (copies - 1)])


def _check_classes(labels: Tensor) -> None:
    if labels.dim() != 1 or labels.is_floating_point():
        raise InputError(
            "--labelled and --repeat-labelled are for samples with one class each, and these have something else: "
            "leave them out."
        )
