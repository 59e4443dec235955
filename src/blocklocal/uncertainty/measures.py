"""How well a predicted variance tells the error that is really made: pure functions of tensors, for any network.

`variance` is what a network predicts per value (pixel, target, …) and `squared_error` is what it got wrong there,
(value - prediction)², both of one shape, whatever that is. Units are those of the values, or of their square.

    measured = mismatch(variance, squared_error)
    measured.spearman, measured.ause, …

Values whose predicted variances are equal cannot be told apart by it: each then counts with the mean error of all of
them, so that no figure depends on the order in which the values stand. A measure that is not defined (the correlation
with a constant) is NaN.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from blocklocal._common.errors import InputError
from blocklocal._common.ranges import FROM_ONE, check_range

STEPS = 100  # of a sparsification curve
BINS = 20  # of the normalised calibration error
CONFIDENCE_BINS = 15  # of the calibration error of a classifier


@dataclass(frozen=True)
class Mismatch:
    """How well a predicted variance fits the squared errors.

    Attributes:
        rmse: in units of the values; the others but `nll` have no unit.
        nll: nats per value.
        pearson: 1 is best; the errors of a perfect predictor of Gaussian residuals reach 1/√3 = 0.577 at most.
        spearman: 1 is best.
        ause, ence: 0 is best.
    """

    rmse: float
    nll: float
    pearson: float
    spearman: float
    ause: float
    ence: float


def mismatch(variance: Tensor, squared_error: Tensor, *, own_variance: float = 0.0) -> Mismatch:
    """All measures of one prediction.

    Args:
        variance, squared_error: of every value, of one shape.
        own_variance: the variance that the data were said to have (σ₀²). A prediction of such data includes it, so the
            calibration error and the likelihood are taken of data with it: their expected squared error is σ₀² larger.
            The other measures do not change by a constant.

    Raises:
        InputError: shapes differ, there are fewer than two values, a value is not finite, or one is too small.
    """
    variance, squared_error = _checked(variance, squared_error)
    if not 0 <= own_variance < math.inf:
        raise InputError(f"own_variance must be a variance, 0 or more, not {own_variance!r}.")
    expected = squared_error + own_variance
    return Mismatch(
        rmse=rmse(squared_error),
        nll=gaussian_nll(variance, expected),
        pearson=pearson(variance, squared_error),
        spearman=spearman(variance, squared_error),
        ause=ause(variance, squared_error),
        ence=ence(variance, expected),
    )


def rmse(squared_error: Tensor) -> float:
    """Root mean squared error."""
    return math.sqrt(squared_error.double().mean().item())


def gaussian_nll(variance: Tensor, squared_error: Tensor) -> float:
    """Mean of -log N(value; prediction, variance) = ½ (log 2πσ² + error²/σ²), in nats per value."""
    variance, squared_error = _checked(variance, squared_error)
    return 0.5 * (math.log(2 * math.pi) + (variance.log() + squared_error / variance).mean().item())


def pearson(first: Tensor, second: Tensor) -> float:
    """Linear correlation; NaN where one of the two is constant."""
    first, second = _same_shape(first, second)
    a, b = first - first.mean(), second - second.mean()
    scale = (a.square().mean() * b.square().mean()).sqrt().item()
    constant = bool((first == first[0]).all() or (second == second[0]).all())
    return math.nan if constant else (a * b).mean().item() / scale


def spearman(first: Tensor, second: Tensor) -> float:
    """Correlation of the ranks; equal values share their mean rank. NaN where one of the two is constant."""
    first, second = _same_shape(first, second)
    return pearson(ranks(first), ranks(second))


def ause(variance: Tensor, squared_error: Tensor, steps: int = STEPS) -> float:
    """Area between two sparsification curves (Ilg et al. 2018), divided by the RMSE of all values.

    A curve is the RMSE of what is left when the fraction 0, 1/steps, …, (steps - 1)/steps of all values is taken away,
    those of the largest predicted variance first, or for the other curve those of the largest error. The area is the
    mean difference of the two. 0: the order is that of the errors. NaN where there is no error at all.
    """
    check_range("steps", steps, FROM_ONE)
    variance, squared_error = _checked(variance, squared_error)
    if not bool(squared_error.any()):
        return math.nan
    predicted = _curve(_by_variance(variance, squared_error)[1], steps)
    best = _curve(squared_error.sort().values, steps)
    return ((predicted - best).mean() / predicted[0]).item()


def ence(variance: Tensor, squared_error: Tensor, bins: int = BINS) -> float:
    """Expected normalised calibration error (Levi et al. 2022): the mean of |RMV - RMSE| / RMV over bins.

    The values, sorted by variance, are cut into `bins` bins of equal size (±1; no more bins than values). RMV is the
    root of a bin's mean variance, RMSE that of its mean squared error.
    """
    check_range("bins", bins, FROM_ONE)
    variance, squared_error = _checked(variance, squared_error)
    ordered, errors = _by_variance(variance, squared_error)
    pairs = zip(ordered.tensor_split(min(bins, len(errors))), errors.tensor_split(min(bins, len(errors))), strict=True)
    ratios = [(error.mean() / own.mean()).sqrt().item() for own, error in pairs]
    return sum(abs(1 - ratio) for ratio in ratios) / len(ratios)


def calibration_error(confidence: Tensor, right: Tensor, bins: int = CONFIDENCE_BINS) -> float:
    """Expected calibration error (Guo et al. 2017): the mean of |accuracy - mean confidence| over bins, by their size.

    The bins are equally wide and hold their lower edge; a confidence of exactly 1 is in a bin of its own, as
    torchmetrics has it.

    Args:
        confidence: of every prediction [N], between 0 and 1.
        right: whether it is right [N].
    """
    check_range("bins", bins, FROM_ONE)
    edges = torch.linspace(0, 1, bins + 1, dtype=confidence.dtype, device=confidence.device)
    index = torch.bucketize(confidence, edges, right=True) - 1
    gaps = torch.zeros(bins + 1, dtype=torch.float64, device=confidence.device)
    gaps.index_add_(0, index, right.double() - confidence.double())
    return (gaps.abs().sum() / len(confidence)).item()


def adaptive_calibration_error(confidence: Tensor, right: Tensor, bins: int = CONFIDENCE_BINS) -> float:
    """As `calibration_error`, with bins that hold equally many predictions (Nixon et al. 2019, arXiv 1904.01685).

    Args:
        confidence: of every prediction [N], between 0 and 1.
        right: whether it is right [N].
    """
    check_range("bins", bins, FROM_ONE)
    order = confidence.argsort(stable=True)
    gaps = (right.double() - confidence.double())[order].tensor_split(min(bins, len(confidence)))
    return sum(gap.sum().abs().item() for gap in gaps) / len(confidence)


def auroc(inside: Tensor, outside: Tensor) -> float:
    """Probability that a score of `outside` is larger than one of `inside`; equal scores count one half.

    For out-of-distribution detection. 0.5 is chance.

    Args:
        inside, outside: scores per sample, such as the mean predicted variance of an image.

    Raises:
        InputError: one of the two is not [N] with N ≥ 1, or not finite.
    """
    for name, scores in (("inside", inside), ("outside", outside)):
        if scores.dim() != 1 or len(scores) == 0 or not bool(torch.isfinite(scores).all()):
            raise InputError(f"{name} must hold one finite score per sample, [N] with N ≥ 1, not {_words(scores)}.")
    rank = ranks(torch.cat((inside, outside)).double())[len(inside) :]
    wins = rank.sum().item() - len(outside) * (len(outside) + 1) / 2
    return wins / (len(inside) * len(outside))


def ranks(values: Tensor) -> Tensor:
    """Ranks from 1, float64 [N]; equal values share their mean rank."""
    _, group, count = values.unique(return_inverse=True, return_counts=True)
    last = count.cumsum(0).double()
    return (last - (count.double() - 1) / 2)[group]


def _curve(ascending: Tensor, steps: int) -> Tensor:
    """RMSE of what is left when 0/steps, 1/steps, … of the values is taken away from the end, [steps]."""
    count = len(ascending)
    left = [max(1, count - i * count // steps) for i in range(steps)]
    kept = torch.tensor(left, device=ascending.device)
    return (ascending.cumsum(0)[kept - 1] / kept).clamp_min(0).sqrt()


def _by_variance(variance: Tensor, squared_error: Tensor) -> tuple[Tensor, Tensor]:
    """Both in ascending order of variance; errors of equal variances become their mean."""
    ordered, order = variance.sort()
    _, group, count = ordered.unique_consecutive(return_inverse=True, return_counts=True)
    sums = torch.zeros(len(count), dtype=squared_error.dtype, device=squared_error.device)
    sums.index_add_(0, group, squared_error[order])
    return ordered, (sums / count)[group]


def _checked(variance: Tensor, squared_error: Tensor) -> tuple[Tensor, Tensor]:
    """Both as float64 [N], or InputError."""
    variance, squared_error = _same_shape(variance, squared_error)
    if not bool((variance > 0).all()):
        raise InputError("every variance must be above 0. A network that predicts its logarithm: pass .exp() of it.")
    if not bool((squared_error >= 0).all()):
        raise InputError("a squared error cannot be below 0: pass (value - prediction)².")
    return variance, squared_error


def _same_shape(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Both as float64 [N], or InputError where they do not fit, are fewer than two, or are not finite."""
    if first.shape != second.shape or first.numel() < 2:
        raise InputError(
            f"variance and squared error must have one shape with at least 2 values, not {list(first.shape)} and "
            f"{list(second.shape)}."
        )
    first, second = first.detach().double().flatten(), second.detach().double().flatten()
    if not bool(torch.isfinite(first).all() and torch.isfinite(second).all()):
        raise InputError("variance and squared error must be finite: look for a training run that diverged.")
    return first, second


def _words(scores: Tensor) -> str:
    finite = "" if bool(torch.isfinite(scores).all()) else " with values that are not finite"
    return f"{list(scores.shape)}{finite}"
