"""Never more in memory than was said: learners and their parameters, counted here and not by the code; messages too."""

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import streaming_faults as faults
import streaming_helpers as st
import torch
from batteries import thinned

from blocklocal._common.errors import InputError
from blocklocal.block.learner import BlockLearner
from blocklocal.streaming.cache import FileCache, MemoryCache
from blocklocal.streaming.homes import FileHome
from blocklocal.streaming.streamed import Streamed
from blocklocal.streaming.visits import Visits

pytestmark = pytest.mark.usefixtures("quick_disk")
BLOCKS = 4


def four_blocks() -> torch.nn.Module:
    model = st.dense()
    assert isinstance(model, torch.nn.Sequential)
    return torch.nn.Sequential(torch.nn.Linear(st.FEATURES, st.FEATURES), *model)


build = st.made(four_blocks, BLOCKS)


class Count:
    """Weak references to every learner that is made, and to its parameters and the tensors of its optimiser."""

    def __init__(self) -> None:
        self.learners: list[weakref.ref[BlockLearner]] = []
        self.tensors: list[list[weakref.ref[torch.Tensor]]] = []
        self.peak = self.held = 0
        self._lock = threading.Lock()

    def made(self, learner: BlockLearner) -> None:
        with self._lock:
            self.learners.append(weakref.ref(learner))
            state = learner.optimizer.state if learner.optimizer else {}
            kept = [v for each in state.values() for v in each.values() if isinstance(v, torch.Tensor)]
            self.tensors.append([weakref.ref(t) for t in (*learner.parameters(), *learner.buffers(), *kept)])
            self.look()

    def look(self) -> None:
        self.peak = max(self.peak, sum(ref() is not None for ref in self.learners))
        self.held = max(self.held, self.with_tensors())

    def with_tensors(self) -> int:
        """Learners of which any tensor is still in memory."""
        return sum(any(ref() is not None for ref in tensors) for tensors in self.tensors)


@contextmanager
def counted(network: Streamed) -> Iterator[Count]:
    """Without the garbage collector: memory must be free when the last reference goes, not some time later."""
    count, fetch = Count(), network.visits._fetch

    def counting(k: int, optimizer: bool) -> BlockLearner:
        learner = fetch(k, optimizer=optimizer)
        count.made(learner)
        return learner

    gc.collect()
    gc.disable()
    network.visits._fetch = counting
    try:
        yield count
    finally:
        gc.enable()


@pytest.mark.parametrize(("most", "store"), thinned([1, 2, 3], ["files", "ram"]))
def test_no_more_learners_are_alive_than_was_said(most: int, store: str, tmp_path: Path) -> None:
    network = Streamed(build, visit=2, store="ram" if store == "ram" else tmp_path / "store", most=most)
    with counted(network) as count:
        st.trained(network, st.batches(), validation=st.batches(2))
        network.predict(st.batches(1)[0][0])
        assert len(count.learners) == (2 * (2 + 1 + 1) + 1) * BLOCKS  # chunks, message sizes, validation; prediction
        assert count.peak <= most
        assert network.visits.peak == min(most, count.peak)
        assert [ref() for ref in count.learners if ref() is not None] == []
        if store == "files":  # in host memory, the tensors themselves are what rests
            assert count.held <= most
            assert count.with_tensors() == 0


def test_of_three_blocks_in_memory_one_computes_while_others_come_and_go(tmp_path: Path) -> None:
    network = Streamed(build, visit=2, store=tmp_path / "store", most=3)
    fetching, computing, both = threading.Event(), threading.Event(), []
    fetch = network.visits._fetch

    def slow(k: int, optimizer: bool) -> BlockLearner:
        fetching.set()
        both.append(computing.wait(5) if k == 1 else True)  # block 2 is being fetched until block 1 computes
        return fetch(k, optimizer=optimizer)

    def compute(learner: BlockLearner) -> None:
        computing.set()

    network.visits._fetch = slow
    network.each(compute)
    assert both == [True] * BLOCKS


@pytest.mark.parametrize("most", [1, 2, 3])
@pytest.mark.parametrize("where", ["fetch", "do", "write"])
def test_a_failure_leaves_room_for_as_many_learners_as_before(most: int, where: str) -> None:
    shape = build().learners[0]
    failing = [True]

    def fail(name: str) -> None:
        if name == where and failing[0]:
            raise ZeroDivisionError

    def fetch(k: int, optimizer: bool) -> BlockLearner:
        fail("fetch" if k == 1 else "")
        return named(shape, k)

    def do(learner: BlockLearner) -> int:
        fail("do" if learner.index == 1 else "")
        return learner.index

    def write(learner: BlockLearner) -> None:
        fail("write" if learner.index == 1 else "")

    visits = Visits(fetch, write, most=most)
    for _ in range(most + 1):
        with pytest.raises(ZeroDivisionError):
            visits.run(range(4), do, writes=True)
    failing[0] = False
    assert visits.run(range(4), do, writes=True) == [0, 1, 2, 3]


def named(shape: BlockLearner, k: int) -> BlockLearner:
    return BlockLearner(torch.nn.Linear(2, 2), None, index=k)


@pytest.mark.parametrize("cache", ["ram", "files"])
@pytest.mark.parametrize("visit", [1, 2, 4])
def test_the_boundary_cache_holds_one_message_per_step_of_a_chunk_and_none_after_it(
    visit: int, cache: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def watched(kind: type, held: Callable[[Any], int]) -> None:
        put = kind.put

        def putting(self: Any, step: int, message: torch.Tensor) -> None:
            put(self, step, message)
            sizes.append(held(self))

        monkeypatch.setattr(kind, "put", putting)

    watched(MemoryCache, lambda cache: len(cache._messages))
    watched(
        FileCache, lambda cache: max(len(cache._like), len([p for p in cache._folder.iterdir() if "." not in p.name]))
    )
    network = Streamed(build, visit=visit, store=tmp_path / "store", cache=cache)
    for _ in network.walk(st.batches(7)):
        kept = network._cache._messages if cache == "ram" else network._cache._like  # type: ignore[attr-defined]
        assert kept == {}
    list(network.look(st.batches(7)))
    assert max(sizes) == visit
    assert kept == {}


@pytest.mark.parametrize("cache", ["ram", "files"])
def test_a_chunk_that_fails_leaves_no_message_in_the_cache(cache: Any, tmp_path: Path) -> None:
    network = Streamed(build, visit=4, store=tmp_path / "store", cache=cache)
    with faults.struck("computing a step", 1, faults.raising), pytest.raises(faults.Injected):
        list(network.walk(st.batches(4)))
    assert (network._cache._messages if cache == "ram" else network._cache._like) == {}  # type: ignore[attr-defined]


def test_a_cache_in_files_is_removed_with_the_network(tmp_path: Path) -> None:
    network = Streamed(build, visit=2, store=tmp_path / "store", cache="files")
    network.step(*st.batches(1)[0])
    assert len(list((tmp_path / "store").glob(".cache-*"))) == 1
    del network
    gc.collect()
    assert list((tmp_path / "store").glob(".cache-*")) == []


def test_the_cache_of_a_run_that_was_killed_is_removed_and_that_of_another_is_not(tmp_path: Path) -> None:
    (tmp_path / ".cache-killed").mkdir()
    (tmp_path / ".cache-killed" / "step-0").write_bytes(b"123")
    one, two = FileCache(tmp_path), FileCache(tmp_path)
    for cache in (one, two):
        cache.put(0, torch.ones(3))
    assert not (tmp_path / ".cache-killed").exists()
    assert torch.equal(one.take(0), torch.ones(3))


def test_at_home_in_files_blocks_have_no_content_in_memory(tmp_path: Path) -> None:
    network = Streamed(build, visit=2, store=tmp_path / "store")
    st.trained(network, st.batches())
    assert isinstance(network.home, FileHome)
    assert all(tensor.is_meta for learner in network.learners for tensor in learner.state_dict().values())


@pytest.mark.parametrize("look", ["predict", "evaluate", "export"])
def test_where_nothing_is_trained_no_file_of_an_optimiser_is_read(look: str, tmp_path: Path) -> None:
    """They are gone, and only training misses them."""
    network, x = Streamed(build, visit=2, store=tmp_path / "store"), st.batches(1)[0][0]
    st.trained(network, st.batches())
    files = list((tmp_path / "store").glob("step-*/block-*.optimizer"))
    assert len(files) == BLOCKS
    for file in files:
        file.unlink()
    {
        "predict": lambda: network.predict(x),
        "evaluate": lambda: list(network.look(st.batches())),
        "export": lambda: network.export(tmp_path / "exported"),
    }[look]()
    with pytest.raises(InputError, match=r"block-0\.optimizer"):
        network.step(*st.batches(1)[0])
