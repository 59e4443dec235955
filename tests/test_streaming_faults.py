"""Oracle: a run that nothing disturbs. A chunk counts as a whole or not at all, wherever it is struck."""

import errno
import functools
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import streaming_faults as faults
import streaming_helpers as st
from batteries import thinned
from run_helpers import equal, file_limit

import blocklocal as bl
from blocklocal._common.errors import InputError
from blocklocal.network.neighbours import Neighbours
from blocklocal.training.checkpoint import load_checkpoint
from blocklocal.training.checkpoint_folder import list_checkpoints

DATA = st.batches(3)
ENDS = (0, 2, 3, 5, 6)  # steps after which a chunk of 2 ends, in 2 epochs of 3
CHUNKS = (1, 3)  # which are struck: the first, before anything rests in the store, and the first of the second epoch
build = st.made(st.dense, twin="chain", message_delay=2)

quick = pytest.mark.usefixtures("quick_disk")


def trainer(network: Neighbours, **more: Any) -> bl.Trainer:
    return bl.Trainer(network, optimizer=bl.adamw(lr=0.01, clip=1.0), epochs=2, **more)


@functools.cache
def undisturbed() -> tuple[list[Any], bl.BlockLocal, list[dict[str, Any]]]:
    """What the ordinary network holds after every step, the network at the end, and its records."""
    network = build()
    states = [st.kept(network)]

    class Keep(bl.Callback):
        def step(self, trainer: bl.Trainer, losses: Any) -> None:
            states.append(st.kept(network))

    records = trainer(network, callbacks=[Keep()]).fit(DATA)
    return states, network, st.timeless(records)


def opened(store: Path, **more: Any) -> tuple[Any, bl.Trainer]:
    """A network and its trainer, which goes on with what rests in the store."""
    network = st.streamed(build, store, visit=2, **more)
    going = trainer(network)
    going.prepare(DATA)
    if there := list_checkpoints(store):
        going.restore(load_checkpoint(there[-1], network))
    return network, going


def assert_ends_undisturbed(network: Neighbours, records: list[dict[str, Any]]) -> None:
    _, whole, expected = undisturbed()
    st.assert_same_network(whole, network)
    assert equal(st.timeless(records), expected)


def struck_at(first: int) -> list[Any]:
    """Every point with every chunk; in the default run, with one of them."""
    found = [(p, chunk) for p in faults.POINTS for chunk in CHUNKS if chunk > 1 or p not in faults.SECOND]
    every = list(faults.POINTS)
    chosen = [p in faults.SECOND or CHUNKS[(every.index(p) + first) % 2] == chunk for p, chunk in found]
    return [
        pair if now else pytest.param(*pair, marks=pytest.mark.slow) for pair, now in zip(found, chosen, strict=True)
    ]


@quick
@pytest.mark.parametrize(("point", "chunk"), struck_at(1))
def test_an_error_leaves_the_last_commit_and_training_goes_on_from_it(point: str, chunk: int, tmp_path: Path) -> None:
    network, going = opened(tmp_path / "store")
    with faults.struck(point, chunk, faults.raising) as hits, pytest.raises(faults.Injected):
        going.fit(DATA)
    assert hits == [point]
    committed = ENDS[chunk if point in faults.COMMITTED else chunk - 1]
    assert network.steps == committed
    if committed:
        assert list_checkpoints(tmp_path / "store")[-1].name == f"step-{committed:08d}"
    assert [path.name for path in (tmp_path / "store").glob(".partial-*") if point not in faults.SECOND] == []
    for k, (mine, its) in enumerate(zip(st.kept(network), undisturbed()[0][committed], strict=True)):
        if committed:  # before, the optimiser is not configured in the reference
            assert equal(mine, its), f"block {k}"
    assert_ends_undisturbed(network, going.fit(DATA))


def in_a_child(do: Callable[[], object]) -> int:
    """The exit status of a copy of this process that does it."""
    child = os.fork()
    if child == 0:
        try:
            do()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@quick
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize(("point", "chunk"), struck_at(0))
def test_a_kill_loses_the_chunk_at_most_and_the_run_ends_as_if_nothing_had_been(
    point: str, chunk: int, tmp_path: Path
) -> None:
    store = tmp_path / "store"

    def run() -> None:
        with faults.struck(point, chunk, faults.killed):
            opened(store)[1].fit(DATA)

    assert in_a_child(run) == 9
    committed = ENDS[chunk if point in {*faults.COMMITTED, "after the commit"} else chunk - 1]
    assert [path.name for path in list_checkpoints(store)][-1:] == [f"step-{committed:08d}"][: bool(committed)]
    network, going = opened(store)
    assert network.steps == committed
    assert_ends_undisturbed(network, going.fit(DATA))
    assert len(list_checkpoints(store)) == 1
    assert list(store.glob(".partial-*")) == []


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import streaming_helpers as st
from test_streaming_faults import DATA, opened
network, going = opened(Path({store!r}))
print(network.steps, flush=True)
going.fit(DATA)
print("done", flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5])
def test_a_kill_from_outside_at_any_time_loses_a_chunk_at_most(seconds: float, tmp_path: Path) -> None:
    import time

    code = textwrap.dedent(SCRIPT.format(tests=str(Path(__file__).parent), store=str(tmp_path / "store")))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline().strip() == "0"
        time.sleep(seconds)
        child.send_signal(signal.SIGKILL)
    network, going = opened(tmp_path / "store")
    assert network.steps in ENDS
    assert_ends_undisturbed(network, going.fit(DATA))


@quick
@pytest.mark.parametrize("point", ["beginning to write weights", "within a file", "writing the state"])
def test_a_full_disk_is_said_and_leaves_the_newest_commit_whole(point: str, tmp_path: Path) -> None:
    network, going = opened(tmp_path / "store")
    with faults.struck(point, 3, faults.full_disk), pytest.raises(OSError, match="No space left") as caught:
        going.fit(DATA)
    assert caught.value.errno == errno.ENOSPC
    assert [path.name for path in list_checkpoints(tmp_path / "store")] == ["step-00000003"]
    assert list((tmp_path / "store").glob(".partial-*")) == []
    network.close()
    again, going = opened(tmp_path / "store")
    assert again.steps == 3
    assert_ends_undisturbed(again, going.fit(DATA))


@quick
def test_files_that_may_not_grow_leave_the_newest_commit_whole(tmp_path: Path) -> None:
    network, going = opened(tmp_path / "store")
    with pytest.raises(faults.Injected), faults.struck("fetching a block", 3, faults.raising):
        going.fit(DATA)
    with file_limit(300), pytest.raises(OSError, match="too large"):
        going.fit(DATA)
    assert network.steps == 3
    assert_ends_undisturbed(network, going.fit(DATA))


def stopped(store: Path, **more: Any) -> list[Path]:
    """The checkpoints of a run that an error ended after 5 steps."""
    network, going = opened(store, **more)
    with faults.struck("computing a step", 4, faults.raising), pytest.raises(faults.Injected):
        going.fit(DATA)
    network.close()
    return list_checkpoints(store)


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


@quick
@pytest.mark.parametrize(
    ("name", "damage"),
    thinned(["block-1.safetensors", "block-2.optimizer", "state.json", "rng.pt"], [flipped, torn, Path.unlink]),
)
def test_a_damaged_file_is_refused_by_name_with_the_older_chunk_to_go_on_from(
    damage: Callable[[Path], None], name: str, tmp_path: Path
) -> None:
    older, newest = stopped(tmp_path / "store", keep=2)
    damage(newest / name)
    network = st.streamed(build, tmp_path / "store", visit=2, keep=2)
    going = trainer(network)
    going.prepare(DATA)
    if name == "state.json" and damage is Path.unlink:  # it is no complete chunk then, so the older one is the newest
        assert list_checkpoints(tmp_path / "store") == [older]
    else:
        with pytest.raises(InputError, match=rf"{name}(.|\n)*--checkpoint step-00000003"):
            load_checkpoint(newest, network)
        assert network.steps == 0
    going.restore(load_checkpoint(older, network))
    assert_ends_undisturbed(network, going.fit(DATA))


@quick
def test_a_file_that_is_damaged_while_training_ends_it_by_name(tmp_path: Path) -> None:
    network, going = opened(tmp_path / "store")
    with faults.struck("computing a step", 3, faults.raising), pytest.raises(faults.Injected):
        going.fit(DATA)
    flipped(list_checkpoints(tmp_path / "store")[-1] / "block-1.safetensors")
    with pytest.raises(InputError, match=r"block-1.safetensors(.|\n)*checksum differs(.|\n)*no older one"):
        going.fit(DATA)
    assert network.steps == 3


@quick
@pytest.mark.parametrize(("step", "store"), thinned([1, 2, 3, 4, 5, 6], ["ram", "files"]))
def test_a_failing_callback_costs_no_step_and_no_figure(step: int, store: str, tmp_path: Path) -> None:
    class Fails(bl.Callback):
        def step(self, trainer: bl.Trainer, losses: Any) -> None:
            if trainer.step == step and not failed:
                failed.append(step)
                raise faults.Injected

    failed: list[int] = []
    network = st.streamed(build, "ram" if store == "ram" else tmp_path / "store", visit=2)
    going = trainer(network, callbacks=[Fails()])
    with pytest.raises(faults.Injected):
        going.fit(DATA)
    assert_ends_undisturbed(network, going.fit(DATA))


@pytest.mark.parametrize("store", ["ram", "files"])
def test_only_a_chunk_in_host_memory_that_fails_leaves_blocks_ahead_and_that_is_said(
    store: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    network = st.streamed(build, "ram" if store == "ram" else tmp_path / "store", visit=2)
    list(network.walk(st.batches(2)))
    bl.save(network, tmp_path / "saved")
    before = st.kept(network)
    with faults.struck("a step is computed", int(store == "files"), faults.raising), pytest.raises(faults.Injected):
        list(network.walk(st.batches(2)))
    assert ("some blocks have taken" in caplog.text) == (store == "ram")
    assert equal(st.kept(network), before) == (store == "files")
    if store == "ram":
        bl.load(network, tmp_path / "saved")
        assert equal(st.kept(network), before)
