"""The store of a run: what somebody writes into it without the run's secret is refused, whatever it is."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
from dataclasses import asdict

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from parallel_helpers import garbage, listening_on

from blocklocal._common.errors import InputError
from blocklocal._common.screen import UNSAFE, one_line
from blocklocal.parallel.address import SECRET, Address, find_address
from blocklocal.parallel.decision import Decided
from blocklocal.parallel.links import Header
from blocklocal.parallel.placement import Placement
from blocklocal.parallel.store import Forged, SealedStore, decode, hold_store, is_loopback
from blocklocal.parallel.watch import FAILURE, Failure, describe_rank, first_failure, register_rank, report, resume_hint
from blocklocal.runs.facts import DatasetInfo

OURS, THEIRS = "0123456789abcdef" * 2, "fedcba9876543210" * 2
names, values = st.text(st.characters(codec="ascii"), min_size=1), st.binary()


def sealed(base: object | None = None, secret: str = OURS) -> SealedStore:
    return SealedStore(base or dist.HashStore(), secret, "run/")


# --- seals


@given(names, values)
def test_what_is_set_is_read(name, value):
    store = sealed()
    assert store.read(name) is None
    store.set(name, value)
    assert store.read(name) == store.get(name) == value


@given(names, values)
def test_a_value_without_the_seal_is_refused(name, value):
    base = dist.HashStore()
    base.set(f"run/{name}", value)
    with pytest.raises(Forged, match="somebody else wrote into the store"):
        sealed(base).read(name)


@given(names, names, values)
def test_a_value_moved_to_another_name_is_refused(name, other, value):
    base = dist.HashStore()
    store = sealed(base)
    store.set(name, value)
    base.set(f"run/{other}", base.get(f"run/{name}"))
    if name == other:
        assert store.read(other) == value
    else:
        with pytest.raises(Forged):
            store.read(other)


@given(names, values)
def test_the_seal_of_another_run_or_attempt_is_refused(name, value):
    base = dist.HashStore()
    sealed(base, THEIRS).set(name, value)
    with pytest.raises(Forged):
        sealed(base).read(name)
    SealedStore(base, OURS, "attempt 0/").set(name, value)
    base.set(f"run/{name}", base.get(f"attempt 0/{name}"))
    with pytest.raises(Forged):
        sealed(base).read(name)


def test_a_text_that_is_no_utf8_comes_back_as_it_was():
    store, path = sealed(), os.fsdecode(b"runs/\xff\xfe")
    register_rank(store, 0, "block 1", f"blocklocal train --resume {path}")
    assert resume_hint(store) == f"blocklocal train --resume {path}"
    assert describe_rank(store, 0) == "process 0 (block 1)"


def test_the_first_report_counts():
    store = sealed()
    report(store, 1, "died.", 1)
    report(store, 0, "lost process 1.", 2)
    assert first_failure(store) == Failure(1, "died.", 1)


def test_a_report_of_somebody_else_is_no_report():
    base = dist.HashStore()
    base.set(f"run/{FAILURE}", json.dumps(asdict(Failure(1, "send money to …", 0))))
    with pytest.raises(Forged) as refused:
        first_failure(sealed(base))
    assert "money" not in str(refused.value)
    with pytest.raises(Forged):
        report(sealed(base), 0, "died.", 1)


def test_numbers_are_counted_up_under_a_seal():
    base = dist.HashStore()
    store = sealed(base)
    assert [store.add("count", n) for n in (1, 0, 2)] == [1, 1, 3]
    base.set("run/count", "100")
    with pytest.raises(Forged):
        store.add("count", 1)


def test_a_part_of_a_store_has_names_of_its_own():
    store = sealed()
    part = store.within("network/1")
    part.set("a", "1")
    assert store.read("a") is None
    assert store.read("network/1/a") == part.read("a") == b"1"


def test_torch_meets_through_it():
    store = sealed()
    dist.init_process_group("gloo", store=store.within("torch"), rank=0, world_size=1)
    try:
        tensor = torch.ones(2)
        dist.all_reduce(tensor)
        assert tensor.tolist() == [1, 1]
    finally:
        dist.destroy_process_group()


# --- the port


@pytest.fixture
def port() -> dist.TCPStore:
    return hold_store("127.0.0.1", 0, 10)


def stranger(port: dist.TCPStore) -> dist.TCPStore:
    return dist.TCPStore("127.0.0.1", port.port, wait_for_workers=False)


def test_it_listens_on_this_machine_alone():
    before = listening_on([os.getpid()])
    base = hold_store("127.0.0.1", 0, 10)
    assert base.port
    assert listening_on([os.getpid()]) - before <= {"0100007F"}
    with socket.create_connection(("127.0.0.1", base.port)):
        pass


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1.2.3"])
def test_names_of_this_machine_alone_are_known(host):
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "10.0.0.1", "host0", "", "127.0.0.1.example.org"])
def test_other_names_may_be_reached_from_outside(host):
    assert not is_loopback(host)


def test_a_port_that_is_taken_leaves_no_socket_open(port):
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError, match="in use") as kept:
        hold_store("127.0.0.1", port.port, 1)
    assert kept  # and with it all that the call has made
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_a_port_that_is_taken_is_said(port):
    address = Address(0, 2, "127.0.0.1", port.port, serves=True)
    with pytest.raises(InputError, match=f"process 0 cannot reach the store of the run at 127.0.0.1:{port.port}"):
        address.connect(serve=True, seconds=1)


@pytest.mark.parametrize("blob", garbage(), ids=["http", "zeros", "ones", "noise"])
def test_garbage_sent_to_the_port_disturbs_nobody(port, blob):
    store = sealed(port)
    store.set("a", "1")
    with socket.create_connection(("127.0.0.1", port.port)) as connection:
        with contextlib.suppress(OSError):  # the store may hang up on it
            connection.sendall(blob)
        assert store.read("a") == b"1"
    store.set("b", "2")
    assert store.read("b") == b"2"


def test_a_flood_of_keys_changes_nothing_that_is_read(port):
    store = sealed(port)
    store.set("a", "1")
    other = stranger(port)
    for number in range(2000):
        other.set(f"run/flood/{number}", "x" * 1000)
    assert store.read("a") == b"1"
    assert store.read("b") is None


def test_what_somebody_has_deleted_is_not_there(port):
    store = sealed(port)
    store.set("a", "1")
    stranger(port).delete_key("run/a")
    assert store.read("a") is None


# --- the secret


def environment(**more: str) -> dict[str, str]:
    return {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "h", "MASTER_PORT": "1", **more}


def test_the_secret_comes_from_the_environment_and_is_not_shown():
    address = find_address(environment(**{SECRET: OURS}))
    assert address is not None
    assert address.secret == OURS
    assert OURS not in repr(address)


def test_a_secret_that_can_be_guessed_is_refused():
    with pytest.raises(InputError, match=f"{SECRET} has 6 characters, which can be guessed"):
        find_address(environment(**{SECRET: "secret"}))


# --- what is read, and what is printed


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (b"", dict),
        (b"{", dict),
        (b"[" * 100_000, list),
        (b"\xff\xfe", str),
        (b'{"rank": "0", "text": "", "status": 1}', Failure),
        (b'{"rank": -1, "text": "", "status": 1}', Failure),
        (b'{"rank": 0, "text": "", "status": 256}', Failure),
        (b'{"rank": 0, "status": 1}', Failure),
        (b"[]", Failure),
        (b'["host", 1, 2]', tuple[str, int]),
        (b"3.5", int),
    ],
    ids=range(11),
)
def test_json_of_another_type_is_refused(value, kind):
    with pytest.raises(InputError, match="something that blocklocal has not written"):
        decode(value, kind)


def test_what_is_decided_comes_back_as_it_was():
    facts = DatasetInfo(("a", os.fsdecode(b"\xff")), 1, 8, 8, (0.1,), (1 / 3,))
    decided = Decided(facts, "digits", 0, [1, 2], Placement((1, 1), (0.1, 0.2)), None, ["lr: 0.1 then, 0.2 now"])
    assert decode(json.dumps(asdict(decided)).encode(), Decided) == decided


@pytest.mark.parametrize("values", [[3, 0], [-1, 0], [float("nan"), 0], [0, float("inf")], [0, 0.5]])
def test_a_header_that_is_none_is_refused(values):
    with pytest.raises(InputError, match="no message of this run"):
        Header.unpack(torch.tensor([*values, 1.0], dtype=torch.float64))


@given(st.text(), st.integers(10, 100))
def test_printed_text_has_one_line_no_control_characters_and_an_end(text, most):
    shown = one_line(text, most)
    assert "\n" not in shown
    assert re.search(UNSAFE, shown) is None
    assert len(shown) <= most


@pytest.mark.parametrize("text", ["", "error: block 1–2 (48 %) → é", "two  spaces", "x" * 2000])
def test_ordinary_text_is_printed_as_it_is(text):
    assert one_line(text) == text


def test_terminal_codes_are_spelt_out():
    assert one_line("\x1b[31mred\x07\nsecond\u202e\udcff") == r"\x1b[31mred\x07 second\u202e\xff"
