"""benchmarks/memory.py: its counts against hand-made ones, checkpointing against backprop, and what it refuses.

No figure of time is asserted here; the benchmark itself checks those.
"""

import argparse
import importlib
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import blocklocal as bl
from blocklocal._common.memory import saved_bytes

FOLDER = Path(__file__).parents[1] / "benchmarks"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def bench():
    """The benchmark's modules, imported as its own command finds them: beside it."""
    sys.path.insert(0, str(FOLDER))
    names = ("common", "memory", "memory_networks", "peak", "soak")
    yield SimpleNamespace(**{name: importlib.import_module(name) for name in names})
    sys.path.remove(str(FOLDER))


@pytest.fixture(scope="module")
def tiny(bench):
    """ResNet-20 of width 4 in place of ResNet-110."""
    model = partial(bl.build_model, "resnet20", classes=10, channels=3, image_size=(32, 32), width=4)
    return replace(bench.memory_networks.CASES["resnet110"], model=model, batch=8)


@pytest.fixture(scope="module")
def methods(bench):
    return {method.name: method for method in bench.memory_networks.METHODS}


def flags(**changes):
    known = {"device": "cpu", "batch": None, "rounds": 1, "steps": 1, "peaks": 0, "check": True, "json": None}
    return argparse.Namespace(**(known | {"soak": None, "largest_batch": False} | changes))


# --- counted by hand


def test_checkpointing_keeps_the_inputs_and_one_segment_at_a_time(bench):
    """Of 4 segments, the last one linear layer: the 3 inputs before it, and the 2 tanh of the one that is run again."""
    samples, width = 8, 4
    hidden = [nn.Sequential(*(layer for _ in range(2) for layer in (nn.Linear(width, width), nn.Tanh())))] * 3
    model = bench.memory_networks.checkpointed([*hidden, nn.Linear(width, width)])
    with saved_bytes(model) as kept:
        model(torch.randn(samples, width)).sum().backward()
    assert kept.peak == (3 + 2) * samples * width * 4
    assert kept.live == 0


@pytest.mark.parametrize("capacity", [0, 1, 7, 31, 32, 33, 1000, 4097])
def test_the_largest_batch_is_found_to_one_part_in_thirty_two(bench, capacity):
    found = bench.peak.largest(lambda batch: batch <= capacity, start=32)
    assert capacity - capacity / 32 - 1 <= found <= capacity


def test_growth_is_counted_from_the_end_of_the_warm_up_and_above_the_limit_is_named(bench):
    flat = [{"who": "one", "step": k, "now": 50.0 + k % 2, "peak": 60.0} for k in range(1, 11)]
    leak = [{"who": "one", "step": k, "now": 50.0 + k, "peak": 60.0 + k} for k in range(1, 11)]
    assert bench.soak.growth(leak) == {"now": 9.0, "peak": 9.0}
    assert bench.soak.shortfalls(flat) == []
    assert [line.split(" grew")[0] for line in bench.soak.shortfalls(leak)] == [
        "soak, one: memory (now)",
        "soak, one: memory (peak)",
    ]


# --- against backprop


@pytest.mark.parametrize("name", ["checkpointing, every unit", "checkpointing, √n segments"])
def test_checkpointing_learns_bit_for_bit_what_backprop_learns(bench, tiny, methods, name):
    plain, again = (bench.memory_networks.build(tiny, methods[key], CPU) for key in ("backprop", name))
    for network in (plain, again):
        for _ in range(2):
            network.step(*tiny.on(CPU, 4))
    assert _equal(plain.split.model.parameters(), again.split.model.parameters())
    assert _equal(_statistics(plain), _statistics(again))
    assert not _equal(_statistics(plain), _statistics(bench.memory_networks.build(tiny, methods[name], CPU)))


def _statistics(network):
    return [b for b in network.split.model.buffers() if b.is_floating_point()]


def _equal(ones, others):
    return all(torch.equal(a, b) for a, b in zip(ones, others, strict=True))


def test_every_method_has_a_row_and_keeps_less_than_backprop(bench, tiny):
    rows = bench.memory.measure(tiny, flags())
    assert [row["method"] for row in rows] == [method.name for method in bench.memory_networks.METHODS]
    assert rows[0]["bytes_ratio"] == rows[0]["time_ratio"] == 1.0
    assert all(row["bytes_ratio"] < 0.7 for row in rows[1:])
    assert all({"device", "threads", "torch", "batch", "rounds", "steps", "peak_runs"} <= row.keys() for row in rows)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="resident memory is read from Linux")
def test_a_process_of_its_own_peaks_above_what_autograd_keeps(bench, tiny, methods):
    backprop, samples = methods["backprop"], 64
    kept = bench.common.kept(bench.memory_networks.build(tiny, backprop, CPU), *tiny.on(CPU, samples))
    peak = bench.peak.apart(bench.peak.cpu_peak, tiny, backprop, samples, 1, environment=bench.peak.OWN_PAGES)
    assert kept < peak < 3 * kept


# --- checks and refusals


def test_a_check_names_the_rows_that_fall_short_and_no_others(bench, tiny, methods, capsys):
    some = [methods["backprop"], replace(methods["block-local, K = 2"], bytes_limit=0.01, time_limit=1e9)]
    some.append(replace(methods["block-local, K = 3"], bytes_limit=1.0, time_limit=1e9))
    rows = bench.memory.measure(tiny, flags(), some)
    assert bench.common.finish(rows, flags(), bench.common.shortfalls(rows)) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("falls short: block-local, K = 2: bytes 0.")
    assert bench.common.finish(rows, flags(check=False), bench.common.shortfalls(rows)) == 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"largest_batch": True}, "needs a GPU"),
        ({"rounds": 4}, "at least 5"),
        ({"soak": 9}, "at least 10 steps"),
    ],
)
def test_flags_that_cannot_be_followed_are_refused(bench, changes, words):
    assert words in bench.memory.refusal(flags(**changes))


def test_flags_that_can_be_followed_are_not_refused(bench):
    assert bench.memory.refusal(flags(rounds=5)) is None
    assert bench.memory.refusal(flags(soak=10)) is None
    assert bench.memory.refusal(flags(device="cuda", rounds=5, largest_batch=True)) is None


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="resident memory is read from Linux")
def test_the_soak_looks_at_memory_ten_times(bench, capsys):
    rows = bench.soak.soak(20, "cpu", 1)
    assert [row["step"] for row in rows] == list(range(2, 21, 2))
    assert all(0 < row["now"] <= row["peak"] for row in rows)
    assert len(capsys.readouterr().out.splitlines()) == 10
