"""What a block may learn without labels, from two views of every sample: another augmentation of the same image.

A batch of two views holds those of all samples first and the second ones behind them, x = [x¹; x²], in x and y alike.
Both views are ordinary samples for every other loss.

Shapes: B samples, U units.
"""

import torch
from torch import Tensor

from blocklocal._common.errors import InputError
from blocklocal.block.targets import MISSING, Asked, Classes, Targets

SURE = 0.95  # from which probability on a block's answer is one to learn
REDUNDANCY = 5e-3  # weight of the correlations of different units


def halves(t: Tensor) -> tuple[Tensor, Tensor]:
    """The first and the second views of a batch.

    Raises:
        InputError: their number is odd, so that they are no pairs.
    """
    if len(t) % 2:
        raise InputError(
            f"a batch of {len(t)} does not hold two views of every sample: give x of all first views and behind them "
            "all second ones, and y the same way."
        )
    first, second = t.chunk(2)
    return first, second


def consistency(targets: Targets, scores: Tensor, target: Asked, mask: Tensor | None = None) -> Tensor:
    """The cross-entropy of the second view with what the block answers to the first, where there is no target.

    Only answers of a probability of `SURE` or more are learned (Sohn et al. 2020, FixMatch, arXiv 2001.07685, Eq. 4).
    A mean over all samples without a target; 0 where there is none.

    Args:
        scores: of the block, [2B, R] or [2B, T, R].
        mask: of positions [2B, T] those that are real in both views count; None for all.

    Raises:
        InputError: the batch holds no pairs.
    """
    first, second = halves(scores)
    assert isinstance(targets, Classes)
    missing = targets.hard(target) == MISSING
    unknown, _ = halves(missing)
    if mask is not None and mask.shape == missing.shape:
        unknown = unknown & torch.logical_and(*halves(mask))
    with torch.no_grad():
        said = targets.probabilities(targets.as_logits(first.detach()))
        learned = unknown & (targets.confidence(said) >= SURE)
        wanted = torch.where(learned, targets.label(said), MISSING)
    return targets.loss(second, wanted) * (learned.sum() / unknown.sum().clamp(min=1))


def barlow_twins(features: Tensor) -> Tensor:
    """Per unit, Σᵢ (1 - Cᵢᵢ)² + λ Σᵢ≠ⱼ Cᵢⱼ² with C the correlations of units across the two views, over the batch.

    (Zbontar et al. 2021, Barlow Twins, arXiv 2103.03230, Eq. 1.) Units tell the same of both views, and each something
    else. The readout stands for the paper's projector.

    Args:
        features: [2B, U].

    Raises:
        InputError: the batch holds no pairs.
    """
    first, second = (_standardised(each) for each in halves(features.float()))
    correlations = first.T @ second / len(first)
    same = correlations.diagonal()
    across = correlations.square().sum() - same.square().sum()
    return ((1 - same).square().sum() + REDUNDANCY * across) / len(same)


def _standardised(z: Tensor) -> Tensor:
    return (z - z.mean(0)) / z.var(0, correction=0).add(1e-5).sqrt()
