"""Processes and launcher that end at any moment of the start: one message, nobody left, no success that is none."""

from __future__ import annotations

import os
import random
import re
import signal
from pathlib import Path

import pytest
from parallel_helpers import assert_one_message, launched, pids, rank_of, wait_until
from run_helpers import with_dropout

pytestmark = [pytest.mark.xdist_group("processes"), pytest.mark.timeout(180)]

# In the order in which a process comes there. The first one has moments of its own.
MOMENTS = ("start", "import", "connect", "connected", "settings", "group", "broadcast", "step", "end", "left")
OF_THE_FIRST = ("planning", "concluding")
QUICK = {("import", 0), ("group", 1)}
EVERY = [(moment, rank) for moment in MOMENTS for rank in (0, 1)] + [(moment, 0) for moment in OF_THE_FIRST]
KILLS = [each if each in QUICK else pytest.param(*each, marks=pytest.mark.slow) for each in EVERY]


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    with_dropout(train_size=50, test_size=20).save(tmp_path / "settings.json")
    return tmp_path / "settings.json"


# --- a process that ends


@pytest.mark.parametrize(("moment", "rank"), KILLS)
def test_a_process_killed_at_any_moment_is_named_and_ends_all(settings, moment, rank):
    with launched(settings, rank=rank, action="kill", moment=moment) as run:
        status, said = run.ended()
    assert status == 1, said
    assert_one_message(said)
    assert re.search(rf"error: process {rank} (\(.*\) )?was ended by SIGKILL", said), said


@pytest.mark.parametrize("code", [0, pytest.param(130, marks=pytest.mark.slow)])
@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_process_that_ends_early_is_no_success_whatever_its_status(settings, rank, code):
    with launched(settings, rank=rank, action=f"exit {code}", moment="settings") as run:
        status, said = run.ended()
    assert status == 1, said
    assert_one_message(said)
    assert f"error: process {rank} ended (status {code}) before the others had come to the end" in said


@pytest.mark.parametrize(
    ("number", "moment"),
    [
        (signal.SIGINT, "import"),
        pytest.param(signal.SIGTERM, "import", marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, "group", marks=pytest.mark.slow),
        pytest.param(signal.SIGQUIT, "step", marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, "step", marks=pytest.mark.slow),
    ],
)
def test_a_process_that_a_signal_ends_is_named(settings, number, moment):
    with launched(settings, rank=1, action="pause", moment=moment) as run:
        run.pausing()
        os.kill(rank_of(run.mark, 1), number)
        status, said = run.ended()
    assert status == 1, said
    assert_one_message(said)
    assert re.search(rf"error: process 1 (\(.*\) )?was ended by {number.name}", said), said


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_process_that_is_asked_to_stop_stops_all_in_good_order(settings, number):
    with launched(settings, "--epochs", 40, rank=0, action="slow") as run:
        out = settings.parent / "run"
        wait_until(lambda: len(pids(out)) == 2 and any((out / "checkpoints").glob("step-*")))
        os.kill(pids(out)[1], number)
        status, said = run.ended()
    assert status == 130, said
    assert_one_message(said)
    assert "Go on with" in said


# --- the launcher


ALONE = [(moment, rank) for moment, rank in EVERY if moment != "left"]  # then the launcher waits for one process only
QUICK_ALONE = {("start", 1), ("connect", 0)}


@pytest.mark.parametrize(
    ("moment", "rank"),
    [each if each in QUICK_ALONE else pytest.param(*each, marks=pytest.mark.slow) for each in ALONE],
)
def test_when_the_launcher_is_killed_at_any_moment_nobody_stays(settings, moment, rank):
    with launched(settings, rank=rank, action="pause", moment=moment) as run:
        run.pausing()
        run.launcher.kill()
        if moment == "start":  # of Python itself, before the first line of the process
            run.file.unlink()
        run.nobody_is_left()


def test_a_stopped_process_does_not_outlive_its_launcher(settings):
    with launched(settings, rank=1, action="pause", moment="connect") as run:
        run.pausing()
        os.kill(rank_of(run.mark, 1), signal.SIGSTOP)
        run.launcher.kill()
        run.nobody_is_left()


@pytest.mark.parametrize(
    ("number", "moment"),
    [
        pytest.param(signal.SIGHUP, "import", marks=pytest.mark.slow),
        (signal.SIGHUP, "step"),  # which does not end
        pytest.param(signal.SIGQUIT, "step", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, "import", marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, "import", marks=pytest.mark.slow),
    ],
)
def test_a_signal_to_the_launcher_ends_all(settings, number, moment):
    # real: a signal may come while Python starts and imports torch, which a fork has behind it
    with launched(settings, real=True, rank=1, action="pause", moment=moment) as run:
        run.pausing()
        run.launcher.send_signal(number)
        status, said = run.ended()
    assert status == 130, said
    assert_one_message(said)
    assert "error:" not in said


@pytest.mark.slow
def test_ctrl_c_in_a_terminal_saves_and_stops_all(settings):
    """It comes to the whole process group of the launcher, to which its processes do not belong."""
    with launched(settings, "--epochs", 40, rank=0, action="slow") as run:
        wait_until(lambda: any((settings.parent / "run" / "checkpoints").glob("step-*")))
        os.killpg(run.launcher.pid, signal.SIGINT)
        status, said = run.ended()
    assert status == 130, said
    assert_one_message(said)
    assert "Go on with" in said


@pytest.mark.slow
def test_under_nohup_a_run_outlives_its_terminal(settings):
    with launched(settings, prefix=("nohup",), rank=1, action="pause", moment="step") as run:
        run.pausing()
        run.launcher.send_signal(signal.SIGHUP)
        run.file.unlink()
        status, said = run.ended()
    assert status == 0, said


# --- at random


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100))
def test_whoever_ends_at_a_random_moment_ends_all(settings, seed):
    """A process or the launcher, by a random signal, while a process pauses."""
    draw = random.Random(seed)
    moment, paused = draw.choice([each for each in ALONE if each[0] != "concluding"])
    number = draw.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
    victim = draw.choice([None, 0, 1])
    with launched(settings, rank=paused, action="pause", moment=moment) as run:
        run.pausing()
        os.kill(run.launcher.pid if victim is None else rank_of(run.mark, victim), number)
        run.file.unlink()
        if victim is None and number == signal.SIGKILL:
            run.nobody_is_left()
            return
        status, said = run.ended()
    if status == 0:  # a process that is asked to stop tells the first one, which may have ended its steps
        assert victim is not None
        assert number in (signal.SIGTERM, signal.SIGINT)
        assert (settings.parent / "run" / "summary.json").exists()
        return
    assert_one_message(said)
    assert status in (1, 130), said
    assert status == 130 or re.search(r"error: process \d (\(.*\) )?was ended by SIG", said), said
