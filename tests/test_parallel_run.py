"""Oracle: the run in one process. From the command line, with P processes, through stops and restarts: the same run."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from parallel_helpers import command, finished, pids, started, torchrun, wait_until
from run_helpers import StopAfter, assert_same_run, cli, newest, summary, weights, whole, with_dropout, without_reports

from blocklocal._common.errors import Interrupted
from blocklocal.parallel.watch import is_running
from blocklocal.runs.config import Config
from blocklocal.runs.run import resume_run, start_run
from blocklocal.timeline import read_timeline, shares

pytestmark = [pytest.mark.xdist_group("processes"), pytest.mark.timeout(180)]


def config(**changes) -> Config:
    """Dropout, augmentation, BatchNorm, late messages and a smaller last batch: 3 blocks, 2 epochs of 20, 20, 10."""
    return with_dropout(**{"train_size": 50, "twin": "mirrored", "message_delay": 1, **changes})


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with without_reports():
        yield whole(config(), tmp_path_factory.mktemp("reference") / "run")


def settings(folder: Path, **changes) -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    config(**changes).save(folder / "settings.json")
    return folder / "settings.json"


def run(*argv: list[str], real: bool = False) -> tuple[int, str, str]:
    with started(argv, real=real) as running:
        return finished(running)[0]


@pytest.mark.parametrize("processes", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_one_flag_spreads_a_run_and_changes_nothing_else(tmp_path, reference, processes):
    at, out = settings(tmp_path), tmp_path / "run"
    flags = ("--config", at, "--output", out, "--processes", processes)
    status, said, err = run(command("train", *flags), real=True)  # once, from start to end, as a user has it
    assert status == 0, err
    assert_same_run(out, reference)
    assert f"{processes} processes: block" in said
    assert "the speed of one" in said
    assert "test accuracy" in said
    assert summary(out)["processes"] == processes
    assert sum(summary(out)["placement"]) == 3
    assert (out / "report.html").exists()
    timeline = read_timeline(out)
    assert timeline is not None
    known = shares(timeline)
    assert sorted(known) == list(range(processes))
    assert all(share is not None and 0 <= share.idle < 1 and share.busy for share in known.values())
    assert not any(map(is_running, pids(out)))


@pytest.mark.slow  # test_parallel_faults has torchrun start such a run twice
def test_torchrun_spreads_a_run_too(tmp_path, reference):
    at, out = settings(tmp_path), tmp_path / "run"
    status, _, err = run(
        torchrun(2, "train", "--config", at, "--output", out, "--placement", 1, 2, "--max-in-flight", 1)
    )
    assert status == 0, err
    assert_same_run(out, reference)
    assert summary(out)["placement"] == [1, 2]


@pytest.mark.parametrize("more", [("--placement", 2, 1), ("--replicas", 2)])
def test_a_chained_twin_needs_no_delay_where_its_messages_cross_no_link(tmp_path, more):
    at, out = settings(tmp_path, message_delay=0, test_size=20), tmp_path / "run"
    status, _, err = run(command("train", "--config", at, "--output", out, "--processes", 2, *more, "--quiet"))
    assert status == 0, err
    if "--placement" in more:  # replicas average over parts of a batch: another run
        with without_reports():
            assert_same_run(out, whole(config(message_delay=0, test_size=20), tmp_path / "whole"))


def test_a_run_stopped_in_several_processes_goes_on_in_one(tmp_path, reference):
    at, out = settings(tmp_path, epochs=40), tmp_path / "run"
    with started([command("train", "--config", at, "--output", out, "--processes", 2)]) as running:
        wait_until(lambda: any((out / "checkpoints").glob("step-*")))
        running[0].send_signal(signal.SIGINT)
        status, _, err = finished(running)[0]
    assert status == 130
    assert err.count("Go on with") == 1
    assert f"blocklocal train --resume {out} --processes 2" in err
    assert "Traceback" not in err
    assert not any(map(is_running, pids(out)))
    with without_reports():
        resume_run(out, quiet=True)
        assert_same_run(out, whole(config(epochs=40), tmp_path / "whole"))


@pytest.mark.parametrize("processes", [3, pytest.param(2, marks=pytest.mark.slow)])
def test_a_run_stopped_in_one_process_goes_on_in_several(tmp_path, reference, processes, monkeypatch):
    out = tmp_path / "run"
    monkeypatch.setattr("blocklocal.runs.train.StopSignals", lambda: StopAfter(4))
    with pytest.raises(Interrupted):
        start_run(config(), out, quiet=True)
    status, _, err = run(command("train", "--resume", out, "--processes", processes, "--quiet"))
    assert status == 0, err
    assert_same_run(out, reference)


def test_measured_cuts_are_kept_with_the_run(tmp_path):
    out = tmp_path / "run"
    changes = {"balance": "time", "model": "resnet20", "model_options": {}, "width": 2, "twin": "dense", "blocks": 3}
    at = settings(tmp_path, message_delay=0, **changes)
    status, _, err = run(command("train", "--config", at, "--output", out, "--processes", 2, "--quiet"))
    assert status == 0, err
    assert (out / "cuts.json").exists()
    assert cli("evaluate", out).status == 0


REPLICAS = ("--processes", 2, "--replicas", 2, "--quiet")


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two replicas, each of which has a copy of the parameters."""
    folder = tmp_path_factory.mktemp("replicas")
    status, _, err = run(command("train", "--config", settings(folder, width=3), "--output", folder / "run", *REPLICAS))
    assert status == 0, err
    return folder / "run"


def test_replicas_share_the_batches(tmp_path, copied):
    """Of the last batch of 10, the two halves; what is drawn for dropout differs between them."""
    at, out = settings(tmp_path, width=3), tmp_path / "four"
    spread = ["--processes", 4, "--replicas", 2, "--quiet"]
    status, _, err = run(command("train", "--config", at, "--output", out, *spread))
    assert status == 0, err
    assert_same_run(copied, out)  # the same shares of the batches, whether the blocks share a process or not
    assert summary(out)["replicas"] == 2


def test_replicas_may_share_the_parameters(tmp_path, copied):
    """As with a copy each, up to rounding; a checkpoint is whole, and a run goes on from it bit for bit."""
    at, shared = settings(tmp_path, width=3), tmp_path / "shared"
    status, _, err = run(command("train", "--config", at, "--output", shared, *REPLICAS, "--shard"))
    assert status == 0, err
    torch.testing.assert_close(weights(shared), weights(copied), rtol=1e-2, atol=1e-4)
    assert cli("evaluate", shared).status == 0

    stopped = shutil.copytree(shared, tmp_path / "stopped")
    shutil.rmtree(newest(stopped))
    (stopped / "summary.json").unlink()
    status, _, err = run(command("train", "--resume", stopped, *REPLICAS, "--shard"))
    assert status == 0, err
    assert_same_run(stopped, shared)


def test_only_replicas_can_share_parameters(tmp_path):
    said = cli("train", "--config", settings(tmp_path), "--output", tmp_path / "run", "--processes", 2, "--shard")
    assert said.status == 2
    assert "give --replicas of 2 or more" in said.text


def test_a_run_does_not_go_on_with_epochs_of_another_length(tmp_path, monkeypatch):
    """The last batch of 3 images is none for four replicas."""
    out = tmp_path / "run"
    monkeypatch.setattr("blocklocal.runs.train.StopSignals", lambda: StopAfter(1))
    with pytest.raises(Interrupted):
        start_run(config(train_size=23), out, quiet=True)
    again = ("train", "--resume", out, "--processes", 4, "--replicas", 4, "--quiet")
    status, _, err = run(command(*again))
    assert status == 2
    assert "replicas: 1 then, 4 now" in err
    status, _, err = run(command(*again, "--accept-changes"))
    assert status == 2
    assert "a run with 2 steps per epoch, and here there are 1" in err


@pytest.mark.parametrize("flag", [("--replicas", 2), ("--placement", 1, 2)])
def test_flags_of_a_spread_run_are_not_ignored_in_one_process(tmp_path, flag):
    said = cli("train", "--config", settings(tmp_path), "--output", tmp_path / "run", *flag)
    assert said.status == 2
    assert "give --processes with them" in said.text
