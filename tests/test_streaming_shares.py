"""What several processes need that stream their own blocks. Oracles: the plan of one process, and sums over blocks."""

from __future__ import annotations

from pathlib import Path

import pytest
import streaming_helpers as st
import torch
from parallel_helpers import command, finished, started
from run_helpers import flags
from torch import nn

from blocklocal import adamw
from blocklocal._common.errors import InputError
from blocklocal.streaming import shares as module
from blocklocal.streaming.plan import Plan, plan
from blocklocal.streaming.shares import check_disk_of, check_memory_of, share_lines, shares


def four() -> nn.Module:
    layers = [nn.Sequential(nn.Linear(st.FEATURES, st.FEATURES), nn.ReLU()) for _ in range(3)]
    return nn.Sequential(*layers, nn.Linear(st.FEATURES, st.CLASSES))


@pytest.fixture
def whole() -> Plan:
    return plan(st.made(four, 4)(), torch.zeros(st.BATCH, st.FEATURES), adamw(), visit=3)


def test_one_process_needs_what_the_plan_says(whole: Plan) -> None:
    (only,) = shares(whole, [4])
    assert only.blocks == "blocks 1–4"
    assert (only.plan.peak, only.plan.rests, only.plan.moved) == (whole.peak, whole.rests, whole.moved)


def test_every_block_rests_and_moves_in_one_process(whole: Plan) -> None:
    given = shares(whole, [2, 1, 1])
    assert [share.blocks for share in given] == ["blocks 1–2", "block 3", "block 4"]
    assert sum(share.plan.rests for share in given) == whole.rests
    assert sum(share.plan.moved for share in given) == pytest.approx(whole.moved)


def test_a_visits_messages_may_wait_on_either_side_of_a_link(whole: Plan) -> None:
    message = 4 * st.BATCH * st.FEATURES  # float32
    assert [share.plan.links for share in shares(whole, [2, 1, 1])] == [3 * message, 6 * message, 3 * message]


def test_processes_that_fit_one_by_one_and_not_together_are_refused_with_what_each_needs(whole: Plan) -> None:
    given = shares(whole, [2, 2])
    needed = sum(share.plan.peak for share in given)
    check_memory_of(given, needed)
    check_memory_of(given, None)
    with pytest.raises(InputError, match=r"2 processes .*blocks 1–2 .*blocks 3–4 .*--processes"):
        check_memory_of(given, needed - 1)


def test_checkpoints_and_blocks_that_rest_share_a_disk(
    whole: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, free = shares(whole, [2, 2]), [0]
    monkeypatch.setattr(module, "free_on_disk", lambda folder: free[0])
    free[0] = 5 * whole.rests  # two copies in the stores, three of the run's own
    check_disk_of(given, 3 * whole.rests, tmp_path / "run", tmp_path / "store")
    free[0] -= 1
    with pytest.raises(InputError, match=r"checkpoints .*--store"):
        check_disk_of(given, 3 * whole.rests, tmp_path / "run", tmp_path / "store")


def test_on_disks_of_their_own_each_must_have_room(
    whole: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, free = shares(whole, [2, 2]), {"run": 3 * whole.rests, "store": 2 * whole.rests}
    monkeypatch.setattr(module, "_disk", lambda place: place.name)
    monkeypatch.setattr(module, "free_on_disk", lambda folder: free[folder.name])
    check_disk_of(given, 3 * whole.rests, tmp_path / "run", tmp_path / "store")
    for name in free:
        free[name] -= 1
        with pytest.raises(InputError, match=name):
            check_disk_of(given, 3 * whole.rests, tmp_path / "run", tmp_path / "store")
        free[name] += 1


def test_every_process_has_a_line(whole: Plan) -> None:
    lines = share_lines(shares(whole, [3, 1]))
    assert [line.split(":")[0] for line in lines[1:3]] == ["process 0, blocks 1–3", "process 1, block 4"]


@pytest.mark.xdist_group("processes")
@pytest.mark.timeout(180)
def test_replicas_are_refused_before_there_is_a_folder(tmp_path: Path) -> None:
    refused = ("--processes", 2, "--visit", 2, "--replicas", 2)
    with started([command("train", *flags(), *refused, "--output", tmp_path / "run")]) as running:
        status, _, err = finished(running)[0]
    assert status == 2
    assert "has no replicas" in err
    assert not (tmp_path / "run").exists()
