"""Somebody on this machine who reaches a run's port and does not know its secret: no word of his is used or shown."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch.distributed as dist
from parallel_helpers import (
    Run,
    assert_one_message,
    command,
    environment_of,
    finished,
    garbage,
    launched,
    listening_on,
    marked,
    rank_of,
    ranks,
    started,
    wait_until,
)
from run_helpers import with_dropout

from blocklocal.parallel.address import SECRET
from blocklocal.parallel.store import SealedStore
from blocklocal.parallel.watch import Watch, first_failure

pytestmark = [pytest.mark.xdist_group("processes"), pytest.mark.timeout(180)]
TEXT = "\x1b[31mHACKED\x07"
SLOW = pytest.mark.slow


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    with_dropout(train_size=50, test_size=20).save(tmp_path / "settings.json")
    return tmp_path / "settings.json"


@contextlib.contextmanager
def visited(settings: Path, moment: str, *more: object, real: bool = False) -> Iterator[tuple[Run, dist.TCPStore]]:
    """A run whose process 1 pauses, and the store of a stranger, who knows the port alone."""
    with launched(settings, *more, real=real, rank=1, action="pause", moment=moment) as run:
        run.pausing()
        port = int(environment_of(rank_of(run.mark, 1))["MASTER_PORT"])
        yield run, dist.TCPStore("127.0.0.1", port, wait_for_workers=False)


def assert_not_shown(said: str) -> None:
    assert "HACKED" not in said
    assert "\x1b" not in said


# --- he writes


@pytest.mark.parametrize(
    ("moment", "key", "value"),
    [
        ("settings", "failure", json.dumps({"rank": 0, "text": TEXT, "status": 0})),
        ("settings", "settings/0", json.dumps({"lr": TEXT})),
        ("broadcast", "broadcast/1", json.dumps([{"name": TEXT}, 0, ""])),
        ("step", "asked to stop", "1"),
        pytest.param("step", "left/0", TEXT, marks=SLOW),
        pytest.param("broadcast", "about/0", TEXT, marks=SLOW),
    ],
    ids=["failure", "settings", "plan", "a wish to stop", "leaving", "a name"],
)
def test_what_he_writes_ends_the_run_with_one_message_that_is_not_his(settings, moment, key, value):
    with visited(settings, moment) as (run, his):
        awaited = key.startswith(("settings", "broadcast"))
        if awaited:
            wait_until(lambda: his.check([f"blocklocal/0/{key}"]))  # else the run's own value would come after his
        his.set(f"blocklocal/0/{key}", value)
        if awaited:
            run.file.unlink()  # the process reads it; the others are seen by those who watch, while it pauses
        if key.startswith("about"):
            os.kill(rank_of(run.mark, 0), 9)
        status, said = run.ended()
    assert_not_shown(said)
    assert status in (1, 2), said
    assert_one_message(said)
    assert "somebody else wrote into the store of this run" in said


@pytest.mark.slow
@pytest.mark.parametrize("key", ["beat/0", "beat/1", "here/0", "piece/epoch 1/0", "told/checkpoint 1/1", "resume_hint"])
@pytest.mark.parametrize("moment", ["settings", "broadcast", "step"])
def test_what_the_run_writes_over_or_does_not_need_harms_nobody(settings, key, moment):
    with visited(settings, moment) as (run, his):
        his.set(f"blocklocal/0/{key}", TEXT)
        run.file.unlink()
        status, said = run.ended()
    assert_not_shown(said)
    if status != 0:
        assert_one_message(said)
        assert "somebody else wrote into the store of this run" in said


@pytest.mark.skipif(not hasattr(dist.TCPStore, "list_keys"), reason="a stranger cannot list the keys in this torch")
def test_he_cannot_put_his_own_address_in(settings):
    """Where a process of torch looks for the others."""
    with visited(settings, "group") as (run, his):

        def addresses() -> list[str]:
            return [key for key in his.list_keys() if "torch" in key]

        wait_until(lambda: bool(addresses()))
        for key in addresses():
            his.set(key.removeprefix("/"), TEXT)
        run.file.unlink()
        status, said = run.ended()
    assert_not_shown(said)
    assert status in (1, 2), said
    assert_one_message(said)


def test_somebody_who_takes_the_place_of_a_process_is_refused(settings):
    with visited(settings, "start") as (run, his):
        known = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(his.port)}
        argv = command("train", "--config", settings, "--output", settings.parent / "run", "--processes", 2)
        with started([argv], **known) as other:
            status, _, err = finished(other)[0]
        assert status in (1, 2)
        assert "somebody else wrote into the store" in err  # as the run is to him
        status, said = run.ended()
    assert status in (1, 2), said
    assert_one_message(said)
    assert "somebody else wrote into the store of this run" in said


# --- he deletes, floods, sends what is no request


def test_noise_at_the_port_changes_nothing(settings):
    with visited(settings, "settings") as (run, his):
        for blob in garbage():
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", his.port)) as connection:
                connection.sendall(blob)
        for number in range(2000):
            his.set(f"blocklocal/0/{TEXT}/{number}", TEXT)
        run.file.unlink()
        status, said = run.ended()
    assert status == 0, said
    assert_not_shown(said)
    assert "error" not in said


@pytest.mark.slow
def test_what_he_deletes_is_missed(settings):
    with visited(settings, "settings", "--rendezvous-timeout", 15) as (run, his):
        wait_until(lambda: his.delete_key("blocklocal/0/settings/0"))
        run.file.unlink()
        status, said = run.ended()
    assert status == 2, said
    assert_one_message(said)
    assert "waited 15 s for 2 processes; 1 came, number 0 did not" in said


def test_an_old_sign_of_life_that_he_puts_back_is_none():
    base = dist.HashStore()
    store = SealedStore(base, "s" * 32, "run/")
    watch, seen = Watch(store, 0, 2, silent=0.0), {}
    store.set("here/1", json.dumps(["another host", 1]))
    kept = []
    for count in (5, 6, 7):
        store.set("beat/1", str(count))
        kept.append(base.get("run/beat/1"))
        watch._look(seen)
        assert first_failure(store) is None
    base.set("run/beat/1", kept[0])
    watch._look(seen)
    failure = first_failure(store)
    assert failure is not None
    assert failure.text.startswith("has not answered")


# --- what he can reach


def test_a_run_on_one_machine_listens_there_alone_and_hides_its_secret(settings):
    # real: what a stranger sees of processes that were started, with nothing of a server of forks
    with visited(settings, "step", real=True) as (run, _):
        everybody = marked(run.mark)
        assert len(everybody) == 3
        assert listening_on(everybody) == {"0100007F"}
        first, second = (environment_of(rank_of(run.mark, rank))[SECRET] for rank in (0, 1))
        assert first == second
        assert len(first) == 64
        assert not any(first.encode() in Path(f"/proc/{pid}/cmdline").read_bytes() for pid in everybody)


@pytest.mark.parametrize(
    "more", [pytest.param((), marks=SLOW), ("--replicas", 2, "--shard"), pytest.param(("--replicas", 2), marks=SLOW)]
)
def test_no_python_object_travels_between_processes(settings, more):
    with launched(settings, *more, rank=1, action="no objects", moment="connect") as run:
        status, said = run.ended()
    assert status == 0, said


def by_hand(settings: Path) -> list[object]:
    return ["train", "--config", settings, "--output", settings.parent / "run", "--quiet"]


def test_processes_of_several_hosts_need_the_same_secret(settings):
    with ranks([by_hand(settings)] * 2, each=[{SECRET: "a" * 32}, {SECRET: "b" * 32}]) as running:
        outcomes = finished(running)
    for status, _, err in outcomes:
        assert status in (1, 2)
        assert "BLOCKLOCAL_SECRET is not the same in all its processes" in err, err


def test_processes_of_several_hosts_with_one_secret_train(settings):
    with ranks([by_hand(settings)] * 2, **{SECRET: "a" * 32}) as running:
        outcomes = finished(running)
    assert [status for status, _, _ in outcomes] == [0, 0], outcomes


# --- names that are no text


def test_a_path_that_is_not_utf8_reaches_the_processes(settings):
    out = settings.parent / os.fsdecode(b"r\xffn")
    with launched(settings, "--output", out, rank=1, action="kill", moment="step") as run:
        status, said = run.ended()
    assert status == 1, said
    assert_one_message(said)
    assert r"r\xffn" in said
    assert out.is_dir()
