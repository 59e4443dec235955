"""The temperature that makes the targets most likely. Oracle: scipy's scalar minimiser, and drawn data."""

import pytest
import torch
from scipy.optimize import minimize_scalar
from torch.nn.functional import cross_entropy

from blocklocal.block.targets import Classes
from blocklocal.exits.temperature import fit_temperature, is_at_the_edge


@pytest.mark.parametrize("factor", [0.3, 1.0, 7.0])
def test_it_is_the_minimum_of_the_likelihood(factor):
    draw = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(4000, 6, generator=draw)
    y = torch.multinomial(logits.softmax(1), 1, generator=draw).squeeze(1)
    found = fit_temperature(Classes(6), factor * logits, y)
    best = minimize_scalar(lambda t: cross_entropy(factor * logits / t, y).item(), bounds=(0.05, 20), method="bounded")
    assert found == pytest.approx(best.x, rel=0.01)
    assert found == pytest.approx(factor, rel=0.1)
    assert not is_at_the_edge(found)


def test_what_no_temperature_mends_is_at_the_edge():
    logits = torch.eye(3)[torch.arange(30) % 3]
    assert is_at_the_edge(
        fit_temperature(Classes(3), logits, torch.arange(30) % 3)
    )  # always right: the colder the better
    assert is_at_the_edge(fit_temperature(Classes(3), 1e4 * logits, (torch.arange(30) + 1) % 3))
