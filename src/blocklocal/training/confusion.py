"""What a network takes for what: how often each target was answered by each prediction."""

import torch
from torch import Tensor

from blocklocal.block.targets import MISSING, Classes, Targets

Counts = list[tuple[int, int, int]]
"""(row of the target, row of the prediction, how often), where that is above 0, in the order of the rows."""


def confusion_counts(targets: Targets, logits: Tensor, wanted: Tensor) -> Counts:
    """The confusion matrix of a network's output without its zeros, since a large vocabulary has very many of them.

    Rows are those of `Targets`: a class is its own row; binary label j has row 2j for "no" and 2j + 1 for "yes". Every
    position of a sequence counts by itself; what has no target counts nowhere.

    Args:
        logits: [B, C] or [B, T, C] for classes, [B, L] for labels.
        wanted: [B], [B, T] or [B, L]; of soft targets the largest share counts.
    """
    if isinstance(targets, Classes):
        wanted = targets.hard(wanted)
    there = wanted.long() != MISSING
    if isinstance(targets, Classes):
        asked, answered = wanted, logits.argmax(-1)
    else:
        no = 2 * torch.arange(targets.count, device=wanted.device)  # the row of each label's "no"
        asked, answered = no + wanted.long(), no + (targets.as_logits(logits) > 0).long()
    pairs, counts = (asked * targets.rows + answered)[there].unique(return_counts=True)
    return [(*divmod(pair, targets.rows), count) for pair, count in zip(pairs.tolist(), counts.tolist(), strict=True)]
