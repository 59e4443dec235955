"""Oracle: the ordinary network, never interrupted. A checkpoint of one walk goes on in another, bit for bit."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import streaming_helpers as st
from batteries import thinned
from run_helpers import equal
from torch import nn

import blocklocal as bl
from blocklocal.network.neighbours import Neighbours
from blocklocal.training.checkpoint import load_checkpoint, save_checkpoint
from blocklocal.training.checkpoint_folder import list_checkpoints
from blocklocal.training.loop import Stopped

KINDS: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "dropout": (st.dense, {}),
    "chain": (st.dense, {"twin": "chain", "message_delay": 4}),
    "norms": (st.maps, {"twin": "mirrored", "message_delay": 5}),
    "mixing": (st.dense, {"tau": 0.5, "objective": "variational", "reconstruction": 0.1}),
    "frozen": (st.dense, {"rule": "frozen"}),
}
WALKS = ("memory", "ram", "files")
STOPS = (2, 3, 5)  # of 6 steps in 2 epochs: in mid-epoch, at the end of one, and in the next
PAIRS = [(a, b) for a in WALKS for b in WALKS if (a, b) != ("memory", "memory")]
WAYS = [(*pair, STOPS[k % len(STOPS)]) for k, pair in enumerate(PAIRS)]

pytestmark = pytest.mark.usefixtures("quick_disk")


def of_walk(walk: str, build: st.Build, store: Path) -> Neighbours:
    return build() if walk == "memory" else st.streamed(build, "ram" if walk == "ram" else store)


def trainer(network: Neighbours, stop: int | None = None) -> bl.Trainer:
    return bl.Trainer(
        network, optimizer=bl.adamw(lr=0.01, clip=1.0), epochs=2,
        should_stop=None if stop is None else lambda: network.steps >= stop,
    )  # fmt: skip


@functools.cache
def ordinary(kind: str) -> tuple[st.Build, list[st.Batch], bl.BlockLocal, list[dict[str, Any]]]:
    """What builds the network, the batches, a network that was never stopped, and its records."""
    module, settings = KINDS[kind]
    shape = st.MAPS if module is st.maps else (st.FEATURES,)
    build, data = st.made(module, shape=shape, **settings), st.batches(shape=shape)
    whole = build()
    return build, data, whole, trainer(whole).fit(data, data[:2])


@pytest.mark.parametrize(
    ("kind", "way"),
    [
        *thinned(["chain", "norms", "mixing"], WAYS),
        *(pytest.param(kind, way, marks=pytest.mark.slow) for kind in ("dropout", "frozen") for way in WAYS),
    ],
)
def test_a_run_begun_in_one_walk_ends_in_another_as_if_it_had_never_stopped(
    kind: str, way: tuple[str, str, int], tmp_path: Path
) -> None:
    first, second, stop = way
    build, data, whole, records = ordinary(kind)
    begun = of_walk(first, build, tmp_path / "one")
    started = trainer(begun, stop)
    with pytest.raises(Stopped):
        started.fit(data, data[:2])
    path = save_checkpoint(tmp_path / "checkpoints", begun, started.state())

    again = of_walk(second, build, tmp_path / "two")
    gone_on = trainer(again)
    gone_on.prepare(data)
    gone_on.restore(load_checkpoint(path, again))
    found = gone_on.fit(data, data[:2])
    st.assert_same_network(whole, again)
    assert equal(st.timeless(found), st.timeless(records))


@pytest.mark.parametrize("second", WALKS)
@pytest.mark.parametrize("stop", [2, 3])
def test_the_newest_commit_of_a_store_is_a_checkpoint_for_every_walk(second: str, stop: int, tmp_path: Path) -> None:
    build, data, whole, records = ordinary("chain")
    with pytest.raises(Stopped):
        trainer(st.streamed(build, tmp_path / "store"), stop).fit(data, data[:2])
    again = of_walk(second, build, tmp_path / "store")
    gone_on = trainer(again)
    gone_on.prepare(data)
    gone_on.restore(load_checkpoint(list_checkpoints(tmp_path / "store")[-1], again))
    found = gone_on.fit(data, data[:2])
    st.assert_same_network(whole, again)
    assert equal(st.timeless(found), st.timeless(records))


def test_a_run_may_go_on_with_another_size_of_visits(tmp_path: Path) -> None:
    build, data, whole, _ = ordinary("norms")
    store = tmp_path / "store"
    for visit, stop in ((1, 1), (5, 3), (2, None)):
        network = st.streamed(build, store, visit=visit)
        going = trainer(network, stop)
        going.prepare(data)
        if there := list_checkpoints(store):
            going.restore(load_checkpoint(there[-1], network))
        if stop is None:
            going.fit(data)
        else:
            with pytest.raises(Stopped):
                going.fit(data)
        network.close()
    again = st.streamed(build, store)
    again.configure(bl.adamw(lr=0.01, clip=1.0), "one-cycle", 6)
    bl.load(again, store)
    st.assert_same_network(whole, again)


@pytest.mark.parametrize("walk", WALKS)
def test_weights_alone_are_loaded_with_optimisers_that_begin_anew(walk: str, tmp_path: Path) -> None:
    build, data = st.made(st.dense), st.batches()
    begun = build()
    st.trained(begun, data)
    path = save_checkpoint(tmp_path / "checkpoints", begun, {"step": begun.steps})
    ordinary, again = build(), of_walk(walk, build, tmp_path / "store")
    for network in (ordinary, again):
        network.configure(bl.adamw(lr=0.02), "cosine", 10)
        load_checkpoint(path, network, optimizers=False)
        assert network.steps == 6
        for x, y in data[:2]:
            network.step(x, y)
    st.assert_same_network(ordinary, again)


@pytest.mark.parametrize("walk", WALKS)
def test_epochs_that_are_added_begin_a_schedule_anew_with_the_same_momenta(walk: str, tmp_path: Path) -> None:
    build, data = st.made(st.dense), st.batches()
    begun = build()
    first = trainer(begun)
    first.fit(data)
    path = save_checkpoint(tmp_path / "checkpoints", begun, first.state())
    ordinary, again = build(), of_walk(walk, build, tmp_path / "store")
    records = []
    for network in (ordinary, again):
        longer = bl.Trainer(network, optimizer=bl.adamw(lr=0.01, clip=1.0), epochs=3, first_epoch=2)
        longer.prepare(data)
        longer.restore(load_checkpoint(path, network))
        records.append(st.timeless(longer.fit(data)))
    st.assert_same_network(ordinary, again)
    assert equal(*records)
