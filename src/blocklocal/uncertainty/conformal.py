"""Conformal sets: for every sample the classes that cannot be left out, so that the true one is in with a wanted share.

Split conformal prediction (Vovk et al. 2005; Angelopoulos & Bates 2021, arXiv 2107.07511). On calibration data every
true class gets a score; a set then holds the classes whose score is at most a quantile of these. Where new samples are
drawn as the calibration data were, the true class is in the set with a probability of at least the coverage, whatever
the network.

    threshold   1 - p_y: the smallest sets in the mean (Sadinle et al. 2019, arXiv 1609.00451)
    adaptive    the probability of all classes more probable than y, and a random part of y's own: sets grow where the
                network is unsure (Romano et al. 2020, arXiv 2006.02544)

Shapes: N samples, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from blocklocal._common.errors import InputError, unknown
from blocklocal._common.seeds import generator
from blocklocal.uncertainty.intervals import smallest

Score = Literal["threshold", "adaptive"]


@dataclass(frozen=True)
class ConformalSets:
    """Sets with a coverage, fitted on calibration data.

    Attributes:
        limits: the largest score of a class in the set, one for all classes or one per class: [1] or [C]. Infinite
            where there were too few samples to leave any class out.
    """

    coverage: float
    score: Score | str
    limits: Tensor

    def __call__(self, probabilities: Tensor, seed: int = 0) -> Tensor:
        """Which classes are in the set of every sample, bool [N, C].

        Args:
            probabilities: of the classes [N, C].
            seed: of the random part of adaptive scores.
        """
        return scores(probabilities, self.score, seed) <= self.limits.to(probabilities.device)


def conformal_sets(
    probabilities: Tensor,
    y: Tensor,
    coverage: float = 0.9,
    score: Score | str = "threshold",
    *,
    by_class: bool = False,
    seed: int = 0,
) -> ConformalSets:
    """Fit sets on calibration data, which neither training nor temperatures have seen.

    Args:
        probabilities: of the classes [N, C].
        y: the true classes [N].
        coverage: the share of samples whose true class is to be in the set, above 0 and below 1.
        score: threshold or adaptive.
        by_class: the coverage holds for the samples of every class (Vovk 2012), and sets are larger.
        seed: of the random part of adaptive scores.

    Raises:
        InputError: shapes do not fit, the score is unknown, or the coverage is no share.
    """
    if probabilities.dim() != 2 or y.shape != probabilities.shape[:1] or not len(y):
        raise InputError(
            f"conformal sets need probabilities [N, C] and classes [N], not {list(probabilities.shape)} and "
            f"{list(y.shape)}."
        )
    if not 0 < coverage < 1:
        raise InputError(f"coverage must be a number above 0 and below 1, not {coverage}.")
    own = scores(probabilities, score, seed).gather(1, y.unsqueeze(1)).squeeze(1).double()
    groups = [own[y == c] for c in range(probabilities.shape[1])] if by_class else [own]
    return ConformalSets(coverage, score, torch.stack([smallest(group, coverage) for group in groups]))


def nested_sets(
    blocks: Sequence[Tensor], y: Tensor, coverage: float = 0.9, score: Score | str = "threshold", *, seed: int = 0
) -> list[ConformalSets]:
    """Of every block, such that the set of the blocks so far only shrinks from block to block.

    That set is the intersection of theirs: `intersections`. Each block gets an equal share of what may be missed, so
    all K intersections hold the true class at once with a probability of at least the coverage.

    Args:
        blocks: probabilities [N, C] of every block on calibration data.
        y: the true classes [N].
    """
    missed = (1 - coverage) / len(blocks)
    return [conformal_sets(p, y, 1 - missed, score, seed=seed + k) for k, p in enumerate(blocks)]


def intersections(sets: Sequence[Tensor]) -> list[Tensor]:
    """Of the sets bool [N, C] of every block: that of the first, of the first two, and so on."""
    found: list[Tensor] = []
    for each in sets:
        found.append(each & found[-1] if found else each)
    return found


def scores(probabilities: Tensor, score: Score | str, seed: int = 0) -> Tensor:
    """How little each class fits, [N, C]: the larger, the less."""
    if score == "threshold":
        return 1 - probabilities
    if score != "adaptive":
        raise unknown("conformal score", score, get_args(Score))
    order = probabilities.argsort(dim=1, descending=True, stable=True)
    ordered = probabilities.gather(1, order)
    part = _part(probabilities, seed).unsqueeze(1).to(probabilities)
    return torch.empty_like(probabilities).scatter_(1, order, ordered.cumsum(1) - ordered + part * ordered)


def _part(probabilities: Tensor, seed: int) -> Tensor:
    """A number from 0 to 1 for every row, [N], told by what is in it: the same in whatever batch the row comes."""
    draw = torch.randn(probabilities.shape[1], generator=generator("conformal", seed), dtype=torch.float64)
    return ((probabilities.double().cpu() @ draw) * 1e6).abs().frac()
