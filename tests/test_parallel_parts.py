"""Placement, address, launch settings and recorder, each in one process."""

from __future__ import annotations

import copy
import itertools
import json
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parallel_cases import CASES, batches, make
from torch import nn

from blocklocal import InputError
from blocklocal.block.learner import BlockLearner
from blocklocal.block.shards import shard
from blocklocal.network.settings import Learning
from blocklocal.parallel.address import find_address
from blocklocal.parallel.launch import Launch
from blocklocal.parallel.placement import Placement, place, step_seconds
from blocklocal.parallel.stage import check_placement, check_rule
from blocklocal.rules import RULES
from blocklocal.timeline import read_timeline, shares
from blocklocal.timeline.recorder import Recorder
from blocklocal.timeline.segments import COMPUTE, SEND, WAIT

TORCHRUN = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "h", "MASTER_PORT": "29500", "LOCAL_WORLD_SIZE": "2"}


# --- placement. Oracle: all ways to place


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=7), st.integers(1, 7))
def test_the_slowest_process_of_a_placement_is_as_fast_as_possible(seconds, stages):
    if stages > len(seconds):
        with pytest.raises(InputError):
            place(seconds, stages)
        return
    ways = [
        Placement(tuple(b - a for a, b in itertools.pairwise([0, *cuts, len(seconds)])), tuple(seconds))
        for cuts in itertools.combinations(range(1, len(seconds)), stages - 1)
    ]
    best = min(max(way.stage_seconds()) for way in ways)
    assert max(place(seconds, stages).stage_seconds()) == pytest.approx(best)


def test_the_predicted_speed_is_that_of_the_slowest_process():
    found = Placement((2, 1), (1.0, 2.0, 2.0))
    assert found.speedup == pytest.approx(5 / 3)
    assert found.summary() == "2 processes: blocks 1–2 (60 %), block 3 (40 %); predicted 1.67 × the speed of one"


def test_measuring_says_which_block_is_slow():
    net = make("mlp")
    for learner in net.learners:
        learner.block.register_forward_pre_hook(lambda *_, k=learner.index: time.sleep(0.1 if k == 2 else 0))
    seconds = step_seconds(copy.deepcopy(net), *batches("mlp")[0])
    assert len(seconds) == 4
    assert seconds[2] == max(seconds)
    assert seconds[2] >= 0.1


@pytest.mark.parametrize("placement", [(1, 2), (1, 1, 2), (0, 4), (4,), ()])
def test_a_placement_that_does_not_add_up_is_refused(placement):
    with pytest.raises(InputError, match="give 2 numbers of at least 1 that add up to 4"):
        check_placement(placement, 4, 2)


# --- rules


@pytest.mark.parametrize("name", RULES.names())
def test_a_rule_may_be_spread_exactly_where_no_block_waits_for_a_later_one(name):
    rule = RULES.get(name)
    if rule.local and not rule.whole:
        check_rule(rule, Learning(rule=name), late=False)
    else:
        with pytest.raises(InputError, match=f"the rule {name} cannot run in several processes"):
            check_rule(rule, Learning(rule=name), late=False)


def test_neighbour_scope_is_refused_and_frozen_blocks_ignore_it():
    with pytest.raises(InputError, match="scope neighbour"):
        check_rule(RULES.get("block-local"), Learning(scope="neighbour"), late=False)
    check_rule(RULES.get("frozen"), Learning(rule="frozen", scope="neighbour"), late=False)


def test_late_messages_need_a_stated_delay():
    with pytest.raises(InputError, match="give --message-delay 1"):
        check_rule(RULES.get("block-local"), Learning(twin="chain"), late=True)
    check_rule(RULES.get("block-local"), Learning(twin="chain", message_delay=1), late=True)
    assert any(settings.get("message_delay") for _, _, settings in CASES.values())


# --- address and launch


def test_a_process_alone_has_no_address():
    assert find_address({}) is None
    assert find_address({"WORLD_SIZE": "1", "RANK": "0"}) is None


def test_what_torchrun_says_is_read():
    address = find_address({**TORCHRUN, "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "2"})
    assert address is not None
    assert (address.rank, address.size, address.host, address.port, address.attempt) == (1, 2, "h", 29500, 2)
    assert not address.serves
    by_hand = find_address({**TORCHRUN, "RANK": "0"})
    assert by_hand is not None
    assert by_hand.serves


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"RANK": ""}, "RANK is not set"),
        ({"MASTER_ADDR": "", "MASTER_PORT": ""}, "MASTER_ADDR, MASTER_PORT is not set"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE must be a whole number, not 'two'"),
        ({"RANK": "2"}, "RANK=2 is not one of 2 processes: expected 0 to 1"),
    ],
)
def test_an_environment_that_does_not_fit_is_refused(change, words):
    with pytest.raises(InputError, match=words):
        find_address({**TORCHRUN, **change})


@pytest.mark.parametrize(
    "bad", [{"processes": 0}, {"max_in_flight": 0}, {"replicas": -1}, {"message_timeout": 0}, {"timeline": -1}]
)
def test_launch_settings_are_checked(bad):
    with pytest.raises(InputError, match=next(iter(bad))):
        Launch(**bad)


# --- recorder. Oracle: what was done, and the reader of timelines


def record(path: Path, steps: int, kept: int) -> dict:
    process = {"process": 0, "replica": 0, "stage": 0, "blocks": [0, 1], "names": ["a", "b"]}
    process |= {"host": "h", "pid": 1, "threads": 1, "device": "cpu"}
    recorder = Recorder(path, process, steps=kept)
    recorder.begin()
    for step in range(steps):
        with recorder.span(WAIT):
            time.sleep(0.002)
        for block in (0, 1):
            with recorder.span(COMPUTE, block):
                time.sleep(0.001)
                if block == 1:
                    with recorder.span(SEND):
                        time.sleep(0.001)
        recorder.step(step + 1)
    recorder.pause()
    with recorder.span(SEND):
        time.sleep(0.05)
    totals = recorder.totals(1)
    recorder.close()
    return totals


def test_all_steps_are_summed_and_the_first_ones_kept(tmp_path):
    path = tmp_path / "timeline" / "process-0.jsonl"
    totals = record(path, steps=5, kept=2)
    assert totals["steps"] == 5
    assert totals["wait"] >= 0.01
    assert totals["send"] >= 0.005
    # What was sent after training does not count.
    assert sum([totals["wait"], totals["send"], *totals["compute"].values()]) <= totals["seconds"]
    timeline = read_timeline(tmp_path)
    assert timeline is not None
    (segment,) = timeline.segments
    assert [step.step for step in segment.steps] == [1, 2]
    kinds = [span.kind for span in segment.steps[0].spans]
    assert kinds == [WAIT, COMPUTE, COMPUTE, SEND, COMPUTE]  # a span inside another one interrupts it
    known = shares(timeline)[0]
    assert known is not None
    assert known.idle == pytest.approx((totals["wait"] + totals["send"]) / totals["seconds"])


def test_a_line_cut_short_by_a_kill_is_dropped_when_the_run_goes_on(tmp_path):
    path = tmp_path / "timeline" / "process-0.jsonl"
    record(path, steps=1, kept=1)
    with path.open("a") as file:
        file.write('{"event": "step", "st')
    record(path, steps=1, kept=1)
    assert all(json.loads(line) for line in path.read_text().splitlines())
    timeline = read_timeline(tmp_path)
    assert timeline is not None
    assert len(timeline.segments) == 2


def test_memory_does_not_grow_with_steps_that_are_not_kept():
    recorder = Recorder(None)
    recorder.begin()
    for step in range(100):
        with recorder.span(COMPUTE, 0):
            torch.zeros(1)
        recorder.step(step)
    assert recorder._spans == []
    assert len(recorder._sums) == 1


def test_a_single_number_cannot_be_shared():
    block = nn.Sequential(nn.Linear(2, 2))
    block.register_parameter("scale", nn.Parameter(torch.tensor(1.0)))
    with pytest.raises(InputError, match=r"block 3: scale is a single number.*leave out --shard"):
        shard(BlockLearner(block, None, index=2), mesh=None)


def test_a_frozen_block_has_nothing_to_share():
    assert shard(BlockLearner(nn.Linear(2, 2), None, index=0, trains=False), mesh=None) == []
