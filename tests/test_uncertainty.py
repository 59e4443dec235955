"""Uncertainty measures. Oracles: SciPy, scikit-learn, torch.distributions, and each definition as a plain loop."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import roc_auc_score

from blocklocal._common.errors import InputError
from blocklocal.uncertainty.measures import (
    auroc,
    ause,
    ence,
    gaussian_nll,
    mismatch,
    pearson,
    ranks,
    rmse,
    spearman,
)

CLOSE = {"rel": 1e-9, "abs": 1e-12}
ties = pytest.mark.parametrize("levels", [None, 7], ids=["no ties", "ties"])


def draw(count=400, levels=None, seed=0):
    """Variances and squared errors of residuals that have them; levels: so many different variances only."""
    generator = torch.Generator().manual_seed(seed)
    variance = 0.05 + torch.rand(count, generator=generator, dtype=torch.float64)
    if levels:
        variance = (variance * levels).ceil() / levels
    return variance, variance * torch.randn(count, generator=generator, dtype=torch.float64) ** 2


def tied(variance, error):
    """Errors in which values of one variance share their mean, by a loop."""
    same = [[e for w, e in zip(variance, error, strict=True) if w == v] for v in variance]
    return [sum(group) / len(group) for group in same]


# --- against other programs


@ties
def test_correlations_are_scipys(levels):
    variance, error = draw(levels=levels)
    assert spearman(variance, error) == pytest.approx(stats.spearmanr(variance, error).statistic, **CLOSE)
    assert pearson(variance, error) == pytest.approx(stats.pearsonr(variance, error).statistic, **CLOSE)


@ties
def test_ranks_are_scipys(levels):
    variance, _ = draw(levels=levels)
    np.testing.assert_array_equal(ranks(variance).numpy(), stats.rankdata(variance))


@ties
def test_auroc_is_scikit_learns(levels):
    inside, outside = draw(60, levels, seed=1)[0], 0.2 + draw(90, levels, seed=2)[0]
    truth = [0] * len(inside) + [1] * len(outside)
    assert auroc(inside, outside) == pytest.approx(roc_auc_score(truth, torch.cat((inside, outside))), **CLOSE)


def test_nll_is_that_of_torch_distributions():
    variance, error = draw()
    normal = torch.distributions.Normal(0.0, variance.sqrt())
    assert gaussian_nll(variance, error) == pytest.approx(-normal.log_prob(error.sqrt()).mean().item(), **CLOSE)


# --- against their definitions as loops


def removed(order, error, steps):
    """RMSE of what is left after taking away 0/steps, 1/steps, … from the end of `order`."""
    kept = [order[: len(order) - i * len(order) // steps] for i in range(steps)]
    return [math.sqrt(sum(error[i] for i in left) / len(left)) for left in kept]


@ties
@pytest.mark.parametrize("steps", [1, 10, 37])
def test_ause_is_the_mean_gap_of_two_sparsification_curves(levels, steps):
    variance, error = (values.tolist() for values in draw(90, levels))
    shared = tied(variance, error)
    mine = removed(sorted(range(90), key=lambda i: variance[i]), shared, steps)
    best = removed(sorted(range(90), key=lambda i: error[i]), error, steps)
    gap = sum(m - b for m, b in zip(mine, best, strict=True)) / steps / mine[0]
    assert ause(torch.tensor(variance), torch.tensor(error), steps) == pytest.approx(gap, rel=1e-6, abs=1e-7)


@ties
@pytest.mark.parametrize("bins", [1, 10])
def test_ence_is_the_mean_relative_gap_of_rmv_and_rmse_over_bins(levels, bins):
    variance, error = (values.tolist() for values in draw(100, levels))
    order, shared, size = sorted(range(100), key=lambda i: variance[i]), tied(variance, error), 100 // bins
    gaps = []
    for start in range(0, 100, size):
        own = [order[i] for i in range(start, start + size)]
        rmv = math.sqrt(sum(variance[i] for i in own) / size)
        gaps.append(abs(rmv - math.sqrt(sum(shared[i] for i in own) / size)) / rmv)
    assert ence(*map(torch.tensor, (variance, error)), bins) == pytest.approx(sum(gaps) / bins, rel=1e-5)


def test_rmse_by_hand():
    assert rmse(torch.tensor([9.0, 16.0, 0.0, 0.0])) == 2.5


# --- what they must be at the ends of their scales


def test_a_prediction_that_is_the_error_has_the_best_order():
    _, error = draw()
    measured = mismatch(error, error)
    assert (measured.ause, measured.ence) == (0, 0)
    assert measured.spearman == pytest.approx(1)
    assert measured.pearson == pytest.approx(1)


def test_a_reversed_order_is_worse_than_none_and_none_is_worse_than_the_right_one():
    variance, error = draw()
    right, none, reverse = (ause(v, error) for v in (variance, torch.ones_like(variance), 2 - variance))
    assert right < none < reverse


def test_the_true_variances_of_gaussian_residuals_are_calibrated_and_correlate_below_the_ceiling():
    variance, error = draw(200_000)
    assert ence(variance, error) < 0.02
    assert 0.3 < pearson(variance, error) < 1 / math.sqrt(3)
    assert ence(4 * variance, error) == pytest.approx(0.5, abs=0.02)


def test_a_constant_variance_has_no_correlation_and_a_flat_curve():
    _, error = draw()
    constant = torch.full_like(error, error.mean().item())
    measured = mismatch(constant, error)
    assert math.isnan(measured.spearman)
    assert math.isnan(measured.pearson)
    assert measured.ence == pytest.approx(0, abs=1e-9)
    assert measured.ause == pytest.approx(ause(constant, error.flip(0)), rel=1e-9)


def test_no_error_at_all_has_no_sparsification_error():
    assert math.isnan(ause(torch.tensor([1.0, 2.0]), torch.zeros(2)))


def test_scores_that_are_all_equal_detect_by_chance():
    assert auroc(torch.ones(3), torch.ones(5)) == 0.5


@ties
def test_no_measure_depends_on_the_order_of_the_values(levels):
    variance, error = draw(levels=levels)
    shuffled = torch.randperm(len(error), generator=torch.Generator().manual_seed(3))
    first, second = mismatch(variance, error), mismatch(variance[shuffled], error[shuffled])
    for name, value in vars(first).items():
        assert getattr(second, name) == pytest.approx(value, rel=1e-9), name


def test_shapes_other_than_flat_ones_give_the_same():
    variance, error = draw()
    assert mismatch(variance.view(4, 1, 10, 10), error.view(4, 1, 10, 10)) == mismatch(variance, error)


def test_the_own_variance_of_the_data_counts_in_calibration_and_likelihood_alone():
    variance, error = draw()
    plain, noisy = mismatch(variance, error), mismatch(variance, error, own_variance=0.3)
    assert noisy.ence == pytest.approx(ence(variance, error + 0.3))
    assert noisy.nll == pytest.approx(gaussian_nll(variance, error + 0.3))
    for name in ("rmse", "pearson", "spearman", "ause"):
        assert getattr(noisy, name) == getattr(plain, name)


# --- bad input


@pytest.mark.parametrize(
    ("variance", "error", "message"),
    [
        (torch.ones(3), torch.ones(4), r"one shape with at least 2 values, not \[3\] and \[4\]"),
        (torch.ones(1), torch.ones(1), "at least 2 values"),
        (torch.tensor([1.0, 0.0]), torch.ones(2), r"every variance must be above 0.*pass \.exp\(\)"),
        (torch.ones(2), torch.tensor([1.0, -1.0]), "cannot be below 0"),
        (torch.tensor([1.0, math.inf]), torch.ones(2), "must be finite"),
        (torch.ones(2), torch.tensor([1.0, math.nan]), "must be finite"),
    ],
)
def test_what_cannot_be_measured_is_refused(variance, error, message):
    with pytest.raises(InputError, match=message):
        mismatch(variance, error)


def test_a_negative_own_variance_is_refused():
    with pytest.raises(InputError, match=r"0 or more, not -0\.1"):
        mismatch(*draw(), own_variance=-0.1)


@pytest.mark.parametrize("scores", [torch.ones(2, 2), torch.ones(0), torch.tensor([math.nan])], ids=str)
def test_scores_that_are_none_per_sample_are_refused(scores):
    with pytest.raises(InputError, match="outside must hold one finite score per sample"):
        auroc(torch.ones(2), scores)


@pytest.mark.parametrize("measure", [ause, ence])
def test_a_count_of_zero_is_refused(measure):
    with pytest.raises(InputError, match="must be a whole number of at least 1"):
        measure(*draw(), 0)
