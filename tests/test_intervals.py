"""Conformal intervals. Oracles: quantiles by hand, and coverage over hundreds of random splits."""

import math

import pytest
import torch

from blocklocal._common.errors import InputError
from blocklocal.uncertainty.intervals import conformal_intervals, smallest


def samples(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Predictions, true values and wrong standard deviations, all [N, 2]; noise grows with the value."""
    draw = torch.Generator().manual_seed(seed)
    values = torch.randn(count, 2, generator=draw)
    std = 0.1 + values.abs()
    return values, values + std * torch.randn(count, 2, generator=draw), 3 * std


def test_a_limit_is_the_quantile_of_the_errors():
    values, y, std = samples(19, 0)
    errors = (y - values).abs()
    found = conformal_intervals(values, y, 0.9)
    assert found.limits.tolist() == pytest.approx([sorted(each)[17] for each in errors.T.tolist()])
    scaled = conformal_intervals(values, y, 0.9, std)
    assert scaled.limits.tolist() == pytest.approx([sorted(each)[17] for each in (errors / std).T.tolist()])
    low, high = scaled(values, std)
    torch.testing.assert_close((high - low) / 2, scaled.limits.float() * std)
    assert conformal_intervals(values, y, 0.96).limits.tolist() == [math.inf, math.inf]  # the 20th of 19


def test_a_rank_is_not_moved_by_rounding():
    assert smallest(torch.arange(1.0, 100.0), 0.55).item() == 55  # 100 · 0.55 is 55.00000000000001


def test_an_unknown_value_is_left_out():
    values, y, _ = samples(50, 1)
    y[7, 0] = math.nan
    found = conformal_intervals(values, y, 0.8)
    kept = torch.arange(50) != 7
    assert found.limits[0] == conformal_intervals(values[kept], y[kept], 0.8).limits[0]
    assert found.limits[1] == conformal_intervals(values, y.nan_to_num(0.0), 0.8).limits[1]


@pytest.mark.parametrize("scaled", [False, True])
def test_the_coverage_is_the_one_asked_for_within_a_percent(scaled):
    inside = []
    for seed in range(200):
        values, y, std = samples(1000, seed)
        fitted, new = slice(0, 500), slice(500, None)
        given = std if scaled else None
        sets = conformal_intervals(values[fitted], y[fitted], 0.9, None if given is None else given[fitted])
        low, high = sets(values[new], None if given is None else given[new])
        inside.append(((low <= y[new]) & (y[new] <= high)).double().mean().item())
    assert sum(inside) / 200 == pytest.approx(0.9, abs=0.01)


def test_with_deviations_intervals_are_narrow_where_the_noise_is_small():
    values, y, std = samples(2000, 3)
    plain, scaled = conformal_intervals(values, y), conformal_intervals(values, y, std=std)
    quiet = std < std.median()
    assert ((scaled(values, std)[1] - values)[quiet]).mean() < ((plain(values)[1] - values)[quiet]).mean()


def test_what_cannot_be_is_refused():
    values, y, std = samples(9, 0)
    for given in ((values, y[:, :1]), (values[:, 0], y[:, 0]), (values, y, 0.9, std[:3]), (values[:0], y[:0])):
        with pytest.raises(InputError, match=r"one shape \[N, V\]"):
            conformal_intervals(*given)
    with pytest.raises(InputError, match="above 0 and below 1, not 1"):
        conformal_intervals(values, y, 1)


def test_a_prediction_that_is_no_number_is_refused():
    values, y, _ = samples(50, 1)
    values[3, 0] = math.nan
    with pytest.raises(InputError, match="no finite number"):
        conformal_intervals(values, y)
