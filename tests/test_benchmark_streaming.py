"""benchmarks/streaming.py: streamed backprop against backprop, what is counted as moved, and what a check names.

No figure of time or memory is asserted here; the benchmark itself checks those.
"""

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

FOLDER = Path(__file__).parents[1] / "benchmarks"
STEPS = 3


@pytest.fixture(scope="module")
def bench():
    """The benchmark's modules, imported as its own command finds them: beside it."""
    sys.path.insert(0, str(FOLDER))
    names = ("streaming", "streaming_peers", "streaming_peers.base", "streaming_peers.block_local")
    yield SimpleNamespace(**{name.split(".")[-1]: importlib.import_module(name) for name in names})
    sys.path.remove(str(FOLDER))


@pytest.fixture
def trained(bench, tmp_path, monkeypatch):
    """A function: the peer of this name after a few steps on the same batches."""
    size = bench.base.Size(layers=3, width=16, heads=2, samples=2, length=8)
    for home in (bench.block_local.FileHome, bench.block_local.HostHome):  # a benchmark's process counts for good
        for method in ("fetch", "put"):
            monkeypatch.setattr(home, method, getattr(home, method))

    def train(name: str, visit: int = STEPS):
        store = tmp_path / name
        store.mkdir()
        peer = bench.streaming_peers.PEERS[name](bench.base.Task(size, str(store), visit=visit))
        peer.train([bench.base.batch(size, step) for step in range(STEPS)])
        return peer

    return train


def model_bytes(peer) -> int:
    return 4 * sum(p.numel() for unit in peer_units(peer) for p in unit.parameters())


def peer_units(peer):
    return importlib.import_module("streaming_peers.base").units(peer.task.size)


def test_the_units_are_those_of_the_models_own_transformer(bench) -> None:
    size = bench.base.Size(layers=3, width=16, heads=2, samples=2, length=8)
    ours = [p for unit in bench.base.units(size) for p in unit.parameters()]
    theirs = [p for _, unit in bench.block_local.build(size).split.model.units() for p in unit.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_streamed_backprop_has_the_weights_of_backprop(bench, trained) -> None:
    streamed, whole = trained(bench.streaming.STREAMED_BACKPROP), trained(bench.streaming.BACKPROP)
    assert streamed.digest() == whole.digest()


def test_block_by_block_has_the_weights_of_block_local_in_memory(bench, trained) -> None:
    assert trained(bench.streaming.STREAMED).digest() == trained(bench.streaming.IN_MEMORY).digest()


def test_streamed_backprop_reads_all_layers_twice_but_the_last(bench, trained) -> None:
    peer = trained(bench.streaming.STREAMED_BACKPROP)
    last = 4 * sum(p.numel() for p in list(peer_units(peer))[-1].parameters())
    assert peer.moved.weights_read == STEPS * (2 * model_bytes(peer) - last)
    assert peer.moved.weights_written == STEPS * model_bytes(peer)
    assert peer.moved.all_written == STEPS * 3 * model_bytes(peer)


def test_block_by_block_reads_and_writes_all_weights_once_per_visit(bench, trained) -> None:
    """The blocks of the first visit are drawn, not read."""
    peer = trained(bench.streaming.STREAMED, visit=1)
    assert peer.moved.weights_read == (STEPS - 1) * model_bytes(peer)
    assert peer.moved.weights_written == STEPS * model_bytes(peer)


def test_a_target_is_the_next_byte(bench) -> None:
    size = bench.base.Size(layers=1, width=16, heads=2, samples=2, length=8)
    x, y = bench.base.batch(size, 5)
    assert torch.equal(x[:, 1:], y[:, :-1])
    assert not torch.equal(x, bench.base.batch(size, 6)[0])


def row(method: str, **figures: object) -> dict:
    return {"part": "peers", "method": method, "memory_ratio": 0.1, "time_ratio": 0.5, "weights": "a", **figures}


@pytest.mark.parametrize(
    ("method", "figures", "words"),
    [
        ("IN_MEMORY", {"memory_ratio": 0.21}, "memory 0.210"),
        ("IN_MEMORY", {"time_ratio": 1.06}, "time 1.060"),
        ("IN_MEMORY", {"weights": "b"}, "weights a"),
        ("CHECKPOINTED", {"memory_ratio": 0.21}, "memory 0.210"),
        ("STREAMED_BACKPROP", {"time_ratio": 0.71}, "time 0.710"),
        ("STREAMED_BACKPROP", {"read_ratio_once": 0.51}, "N = 1: weights read 0.5100"),
        ("STREAMED_BACKPROP", {"read_ratio": 0.034}, "N = 16: weights read 0.0340"),
    ],
)
def test_a_figure_beyond_its_limit_is_named(bench, method: str, figures: dict, words: str) -> None:
    names = {name: getattr(bench.streaming, name) for name in ("IN_MEMORY", "CHECKPOINTED", "STREAMED_BACKPROP")}
    rows = [row(bench.streaming.STREAMED), *(row(name) for name in names.values())]
    assert bench.streaming.short_of_peers(rows, 16) == []
    (changed,) = (each for each in rows if each["method"] == names[method])
    changed |= figures
    (line,) = bench.streaming.short_of_peers(rows, 16)
    assert words in line


def test_memory_that_grows_is_named(bench) -> None:
    def depth(peak: int) -> list[dict]:
        return [{"part": "depth", "layers": n, "peak_bytes": p} for n, p in ((16, 100), (64, peak))]

    def soak(peak: int) -> list[dict]:
        return [{"part": "soak", "visits": n, "peak_bytes": p * 2**20} for n, p in ((20, 100), (200, peak))]

    assert bench.streaming.short_of_depth(depth(105)) == bench.streaming.short_of_soak(soak(104)) == []
    assert "1.060" in bench.streaming.short_of_depth(depth(106))[0]
    assert "5.00 MiB" in bench.streaming.short_of_soak(soak(105))[0]


def test_who_completes_under_the_limit_and_who_does_not_is_judged(bench) -> None:
    def rows(ours: bool, backprop: bool) -> list[dict]:
        both = ((bench.streaming.STREAMED, ours), (bench.streaming.BACKPROP, backprop))
        return [{"part": "limit", "method": name, "completed": completed} for name, completed in both]

    assert bench.streaming.short_of_limit(rows(True, False)) == []
    assert len(bench.streaming.short_of_limit(rows(False, True))) == 2
