"""Conformal intervals: around every predicted value the interval that holds the true one with a wanted share.

Split conformal prediction (Lei et al. 2018, "Distribution-free predictive inference for regression", arXiv 1604.04173).
On calibration data every value gets a score, |y - m|, or |y - m|/σ where a standard deviation σ is predicted too: the
interval is then wide where the network is unsure. Its half width is a quantile of the scores (times σ). Where new
samples are drawn as the calibration data were, the interval holds the true value with a probability of at least the
coverage, whatever the network.

Shapes: N samples, V values.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from blocklocal._common.errors import InputError


@dataclass(frozen=True)
class ConformalIntervals:
    """Intervals with a coverage, fitted on calibration data.

    Attributes:
        limits: of every value the largest score inside, [V]. Infinite where there were too few samples.
    """

    coverage: float
    limits: Tensor

    def __call__(self, values: Tensor, std: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The lower and the upper ends, [N, V] each, in the values' own units.

        Args:
            values: predicted [N, V].
            std: their predicted standard deviations [N, V], where the intervals were fitted with these.
        """
        half = self.limits.to(values) if std is None else self.limits.to(values) * std
        return values - half, values + half


def conformal_intervals(
    values: Tensor, y: Tensor, coverage: float = 0.9, std: Tensor | None = None
) -> ConformalIntervals:
    """Fit intervals on calibration data, which training has not seen.

    Args:
        values: predicted [N, V] (of sequences flatten the positions before).
        y: the true values [N, V], NaN where one is not known.
        coverage: the share of values that are to be inside, above 0 and below 1.
        std: the predicted standard deviations [N, V].

    Raises:
        InputError: shapes do not fit, the coverage is no share, or a prediction is not finite.
    """
    fits = values.dim() == 2 and values.shape == y.shape and len(y) and (std is None or std.shape == y.shape)
    if not fits:
        also = "" if std is None else f" and {list(std.shape)}"
        raise InputError(
            f"conformal intervals need predictions and true values of one shape [N, V], not {list(values.shape)} and "
            f"{list(y.shape)}{also}."
        )
    if not 0 < coverage < 1:
        raise InputError(f"coverage must be a number above 0 and below 1, not {coverage}.")
    scores, known = (y - values).abs().double() / (1.0 if std is None else std), ~y.isnan()
    if not bool(scores[known].isfinite().all()):
        raise InputError("a prediction is no finite number: look for a training run that diverged.")
    limits = [smallest(each[there], coverage) for each, there in zip(scores.T, known.T, strict=True)]
    return ConformalIntervals(coverage, torch.stack(limits))


def smallest(scores: Tensor, coverage: float) -> Tensor:
    """The ⌈(n + 1) · coverage⌉-th smallest score of [n]; infinite where there are fewer."""
    rank = math.ceil((len(scores) + 1) * coverage - 1e-9)  # 100 · 0.55 is 55.00000000000001
    return scores.sort().values[rank - 1] if rank <= len(scores) else scores.new_tensor(math.inf)
