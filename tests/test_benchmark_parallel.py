"""benchmarks/parallel.py: its sums by hand, the cut against all cuts, what a check names, and rates of links.

No figure of time is asserted here; the benchmark itself checks those.
"""

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def bench():
    """The benchmark's modules, imported as its own command finds them: beside it."""
    sys.path.insert(0, str(FOLDER))
    names = {
        "parallel": "parallel",
        "network": "network",
        "peers": "peers",
        "cuts": "peers.cuts",
        "work": "peers.workers",
    }
    yield SimpleNamespace(**{name: importlib.import_module(module) for name, module in names.items()})
    sys.path.remove(str(FOLDER))


@pytest.mark.parametrize(("rate", "bits"), [("1gbit", 1e9), ("100mbit", 1e8), ("2.5kbit", 2500)])
def test_rates_of_links_are_read(bench, rate, bits):
    assert bench.network.bits_per_second(rate) == bits


@pytest.mark.parametrize("rate", ["fast", "100", "0mbit", "1tbit", ""])
def test_a_rate_that_cannot_be_understood_is_refused(bench, rate):
    with pytest.raises(ValueError, match="unknown rate"):
        bench.network.bits_per_second(rate)


@pytest.mark.parametrize("guess", range(1, 9))
@pytest.mark.parametrize("costs", [[1] * 9, [5, 1, 1, 1, 1, 1, 1, 1, 1], [1, 2, 3, 4, 5, 6, 7, 8, 9]])
def test_the_search_of_a_cut_ends_at_the_best_one(bench, costs, guess):
    halves = lambda i: (float(sum(costs[:i])), float(sum(costs[i:])))  # noqa: E731
    _, found = bench.cuts.descend(guess, len(costs), halves)
    assert max(found) == min(max(halves(i)) for i in range(1, len(costs)))


def timings(bench, *seconds):
    return [bench.work.Timing(seconds=s * 1.2, seconds_per_step=s, loss=1.0) for s in seconds]


def rows(bench, ours, peer="GPipe, 4 micro-batches", theirs=(0.8, 0.8, 0.8), link=None, predicted=None):
    times = {
        bench.peers.ONE_PROCESS: timings(bench, 1.0, 1.0, 1.0),
        bench.peers.BACKPROP: timings(bench, 1.1, 1.1, 1.1),
        bench.peers.PARALLEL: timings(bench, *ours),
        peer: timings(bench, *theirs),
        bench.peers.INDEPENDENT: timings(bench, 1.0, 1.0, 1.0),
    }
    return bench.parallel.link_rows(link, times, 64, predicted or {})


def test_speeds_are_ratios_of_one_round_and_their_median(bench):
    found = {row["method"]: row for row in rows(bench, (0.5, 0.4, 0.625))}
    ours = found[bench.peers.PARALLEL]
    assert (ours["speed"], ours["speed_min"], ours["speed_max"]) == pytest.approx((2.0, 1.6, 2.5))
    assert ours["samples_per_second"] == pytest.approx(128)
    assert ours["speed_backprop"] == pytest.approx(2.2)
    assert found[bench.peers.INDEPENDENT]["speed"] == pytest.approx(2.0)  # each trains a batch of its own
    assert found["GPipe, 4 micro-batches"]["lead"] == pytest.approx(1.6)


def test_a_check_names_every_row_that_falls_short(bench):
    good = rows(bench, (0.52, 0.52, 0.52))
    assert bench.parallel.shortfalls(good) == []
    (slow,) = bench.parallel.shortfalls(rows(bench, (0.6, 0.6, 0.6)))
    assert "1.667 × one process, below 1.85" in slow
    behind = bench.parallel.shortfalls(rows(bench, (0.52, 0.52, 0.52), theirs=(0.5, 0.5, 0.5)))
    assert any("GPipe, 4 micro-batches, not above 1" in line for line in behind)
    off = bench.parallel.shortfalls(rows(bench, (0.5, 0.5, 0.5), predicted={bench.peers.PARALLEL: 1.7}))
    assert any("off by -15%" in line for line in off)
    assert bench.parallel.shortfalls([]) == [f"{bench.peers.PARALLEL}: not measured"]


def test_the_lead_must_grow_as_links_get_slower(bench):
    near = rows(bench, (0.5, 0.5, 0.5))
    far = rows(bench, (0.5, 0.5, 0.5), theirs=(2.0, 2.0, 2.0), link="100mbit")
    assert bench.parallel.shortfalls([*far, *near]) == []
    worse = rows(bench, (0.5, 0.5, 0.5), theirs=(0.6, 0.6, 0.6), link="100mbit")
    assert any("100mbit" in line for line in bench.parallel.shortfalls([*near, *worse]))
