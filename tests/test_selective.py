"""Risk and coverage. Oracles: sums by hand, scipy, and how often a bound holds."""

import pytest
import torch

from blocklocal._common.errors import InputError
from blocklocal.uncertainty.selective import abstain_at, aurc, binomial_tail, excess_aurc, risk_coverage

SURE = torch.tensor([0.9, 0.5, 0.8, 0.6])
RIGHT = torch.tensor([True, True, False, True])


def test_the_curve_is_that_of_the_surest_answers():
    curve = risk_coverage(SURE, RIGHT)
    assert curve.coverage.tolist() == [0.25, 0.5, 0.75, 1.0]
    torch.testing.assert_close(curve.risk, torch.tensor([0, 1 / 2, 1 / 3, 1 / 4], dtype=torch.float64))
    assert curve.threshold.tolist() == pytest.approx([0.9, 0.8, 0.6, 0.5])
    assert aurc(SURE, RIGHT) == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 4) / 4)
    assert excess_aurc(SURE, RIGHT) == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 4) / 4 - (1 / 4) / 4)


def test_answers_of_one_confidence_are_all_given_or_none():
    curve = risk_coverage(torch.tensor([0.7, 0.7, 0.7]), torch.tensor([True, False, False]))
    torch.testing.assert_close(curve.risk, torch.full((3,), 2 / 3, dtype=torch.float64))


@pytest.mark.parametrize("right", [torch.ones(4, dtype=torch.bool), torch.zeros(4, dtype=torch.bool)])
def test_where_all_are_right_or_wrong_every_order_is_the_best(right):
    assert excess_aurc(SURE, right) == 0


def test_the_best_order_has_no_excess():
    right = torch.tensor([True, True, False, False])
    assert excess_aurc(torch.tensor([0.9, 0.8, 0.4, 0.3]), right) == pytest.approx(0, abs=1e-12)
    assert excess_aurc(torch.tensor([0.1, 0.2, 0.8, 0.9]), right) > 0.1


def test_binomial_tails_are_those_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    for wrong, count, risk in [(0, 1, 0.5), (3, 200, 0.05), (20, 1000, 0.01), (7, 7, 0.4), (3, 4, 1.0)]:
        assert binomial_tail(wrong, count, risk) == pytest.approx(stats.binom.cdf(wrong, count, risk), rel=1e-6)


def samples(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Confidences that are right as often as they say."""
    draw = torch.Generator().manual_seed(seed)
    sure = torch.rand(count, generator=draw)
    return sure, torch.rand(count, generator=draw) < sure


def test_the_risk_stays_below_the_wanted_one_in_nearly_all_sets_and_much_is_answered():
    sure, right = samples(200_000, 0)
    broken, coverages = 0, []
    for seed in range(100):
        found = abstain_at(*samples(500, 1 + seed), risk=0.2)
        answered = sure >= found.threshold
        broken += bool((~right[answered]).double().mean() > 0.2)
        coverages.append(answered.double().mean().item())
    assert broken <= 12  # 5 are expected at most; more than 12 by chance in 1 of 500 runs
    assert sum(coverages) / 100 > 0.1  # 0.4 if the risk were known


def test_a_risk_that_few_answers_cannot_show_leaves_none():
    found = abstain_at(torch.full((10,), 0.99), torch.ones(10, dtype=torch.bool), risk=0.01)
    assert found.coverage == 0
    assert found.threshold > 1


def test_bad_input_is_refused():
    with pytest.raises(InputError, match=r"two tensors \[N\] of one size"):
        risk_coverage(SURE, RIGHT[:2])
    with pytest.raises(InputError, match="no finite number"):
        risk_coverage(torch.tensor([float("nan")]), torch.tensor([True]))
    for bad in ({"risk": 0.0}, {"risk": 0.1, "doubt": 1.0}):
        with pytest.raises(InputError, match="must be a number above 0 and below 1"):
            abstain_at(SURE, RIGHT, **bad)
