"""Real processes that die, stall, run out of disk or disagree: one message that names it, nobody left, nothing lost."""

from __future__ import annotations

import os
import random
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from parallel_helpers import command, faulty, finished, pids, ranks, started, torchrun, wait_until
from run_helpers import assert_same_run, whole, with_dropout, without_reports

from blocklocal.parallel.watch import is_running
from blocklocal.runs.config import Config
from blocklocal.runs.run import resume_run
from blocklocal.training.checkpoint_folder import list_checkpoints

pytestmark = [pytest.mark.xdist_group("processes"), pytest.mark.timeout(180)]
WITHIN = 30.0  # seconds from a failure to the end of all processes
SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 22))]


def config(**changes) -> Config:
    return with_dropout(**{"train_size": 50, "checkpoint_every": 2, **changes})


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The run that nothing disturbs."""
    with without_reports():
        yield whole(config(), tmp_path_factory.mktemp("reference") / "run")


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    config().save(tmp_path / "settings.json")
    return tmp_path / "settings.json"


def train(settings: Path, *more: object) -> list[object]:
    return ["train", "--config", settings, "--output", settings.parent / "run", "--quiet", *more]


def failed(argv: list[str], **environment: str) -> tuple[int, str]:
    """(status, what was said) of a command that must not hang."""
    with started([argv], **environment) as running:
        status, out, err = finished(running)[0]
    return status, out + err


def assert_goes_on(out: Path, reference: Path) -> None:
    with without_reports():
        resume_run(out, quiet=True)
    assert_same_run(out, reference)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_killed_process_is_named_and_the_run_goes_on_as_if_nothing_had_been(tmp_path, settings, reference, seed):
    draw = random.Random(seed)
    processes = draw.choice([2, 3])
    victim, moment = draw.randrange(processes), draw.choice(["step", "sent", "saving", "evaluation"])
    if victim == processes - 1 and moment == "sent":
        moment = "step"  # the last process sends nothing
    count = draw.randint(1, {"step": 6, "sent": 6, "saving": 3, "evaluation": 2}[moment])
    status, said = failed(command(*train(settings, "--processes", processes)), **faulty(victim, "kill", moment, count))
    assert status == 1
    assert said.count("error:") == 1
    assert re.search(rf"error: process {victim} \(block.*\) (was ended by SIGKILL|died)", said), said
    out = settings.parent / "run"
    assert f"--resume {out} --processes {processes}" in said
    assert not any(map(is_running, pids(out)))
    assert_goes_on(out, reference)


def test_a_process_killed_while_it_plans_leaves_no_folder(tmp_path, settings):
    status, said = failed(command(*train(settings, "--processes", 2)), **faulty(0, "kill", "planning"))
    assert status == 1
    assert said.count("error:") == 1
    assert re.search("process 0 (was ended by SIGKILL|died)", said), said
    assert not (settings.parent / "run").exists()


@pytest.mark.parametrize("processes", [1, 2])
def test_a_process_killed_when_training_was_over_leaves_a_run_that_only_evaluates(settings, reference, processes):
    status, said = failed(command(*train(settings, "--processes", 2)), **faulty(0, "kill", "concluding"))
    assert status == 1
    assert "process 0 (block" in said
    out = settings.parent / "run"
    assert not (out / "summary.json").exists()
    if processes == 1:
        assert_goes_on(out, reference)
        return
    status, said = failed(command("train", "--resume", out, "--processes", processes, "--quiet"))
    assert status == 0, said
    assert_same_run(out, reference)


def test_torchrun_starts_again_from_the_last_complete_checkpoint(tmp_path, settings, reference):
    argv = torchrun(2, *train(settings), options=["--max-restarts=1"])
    status, said = failed(argv, **faulty(1, "kill", "step", 4))
    assert status == 0, said
    assert_same_run(settings.parent / "run", reference)
    assert '"event": "resumed"' in (settings.parent / "run" / "metrics.jsonl").read_text()


def test_under_torchrun_every_other_process_says_who_died(tmp_path, settings):
    arguments = [train(settings)] * 3
    with ranks(arguments, **faulty(1, "kill", "step", 3)) as running:
        running[1].wait(60)
        begun = time.monotonic()
        outcomes = finished(running)
        assert time.monotonic() - begun < WITHIN
    for rank in (0, 2):
        status, _, err = outcomes[rank]
        assert status == 1
        assert err.count("error:") == 1
        assert re.search(rf"error: process 1 \(block 2, pid \d+ on .*\) died.*Process {rank} stops too", err), err


def test_a_stopped_process_is_named_by_its_neighbours(tmp_path, settings):
    status, said = failed(command(*train(settings, "--processes", 2)), **faulty(1, "stop", "step", 3))
    assert status == 1
    assert re.search(r"error: process 1 \(.*\) has not answered for 15 s: it is stopped", said), said
    assert not any(map(is_running, pids(settings.parent / "run")))


def test_a_message_that_does_not_come_in_time_is_an_error(tmp_path, settings):
    """The process lives, so only its step is stalled."""
    status, said = failed(
        command(*train(settings, "--processes", 2, "--message-timeout", 2)), **faulty(0, "sleep", "step", 3)
    )
    assert status == 1
    assert re.search(r"error: process 1 \(.*\) stopped: nothing went to or came from process 0 for 2 s", said), said
    assert "--message-timeout" in said


@pytest.mark.parametrize("victim", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_full_disk_in_one_process_stops_all_and_loses_nothing(tmp_path, settings, reference, victim):
    status, said = failed(command(*train(settings, "--processes", 2)), **faulty(victim, "disk", "saving", 2))
    assert status == 1
    assert said.count("error:") == 1
    assert re.search(rf"process {victim} \(.*\) stopped: cannot write: No space left", said), said
    out = settings.parent / "run"
    complete = [path.name for path in list_checkpoints(out / "checkpoints")]
    # Process 0 does not wait for the others to save: its second time may come before their first.
    assert complete == ["step-00000002"] or (victim == 0 and not complete)
    assert_goes_on(out, reference)


def test_a_loss_that_diverges_in_one_process_is_said_once_with_block_and_step(tmp_path, settings):
    status, said = failed(command(*train(settings, "--processes", 2)), **faulty(1, "nan", "step", 3))
    assert status == 2
    assert said.count("error:") == 1
    assert re.search(r"process 1 \(.*\) stopped: the loss of block [23] became nan at step 3", said), said


def test_a_bug_in_one_process_shows_its_traceback_and_names_the_process(tmp_path, settings):
    status, said = failed(command(*train(settings, "--processes", 2)), **faulty(0, "raise", "step", 2))
    assert status == 1
    assert "Traceback" in said
    assert re.search(r"error: process 0 \(.*\) failed: RuntimeError: something nobody thought of", said), said


@pytest.mark.slow  # at other moments: test_parallel_starting
def test_when_the_launcher_is_killed_no_process_stays(tmp_path, settings):
    out = settings.parent / "run"
    argv = command(*train(settings, "--processes", 2))
    with started([argv], **faulty(1, "slow", "step")) as running:
        wait_until(lambda: len(pids(out)) == 2)
        known = pids(out)
        os.kill(running[0].pid, signal.SIGKILL)
        wait_until(lambda: not any(map(is_running, known)), WITHIN)


def test_a_second_signal_ends_all_processes_at_once(tmp_path, settings):
    """The first one waits for a step that does not end."""
    out = settings.parent / "run"
    with started([command(*train(settings, "--processes", 2))], **faulty(0, "sleep", "step")) as running:
        wait_until(lambda: len(pids(out)) == 2)
        running[0].send_signal(signal.SIGINT)
        time.sleep(1)
        assert running[0].poll() is None
        running[0].send_signal(signal.SIGINT)
        status, _, err = finished(running)[0]
    assert status == 130, err
    assert not any(map(is_running, pids(out)))


def test_a_signal_before_training_stops_without_an_error(tmp_path, settings):
    with started([command(*train(settings, "--processes", 2))]) as running:
        children = Path(f"/proc/{running[0].pid}/task/{running[0].pid}/children")
        wait_until(lambda: len(children.read_text().split()) == 2)  # they are importing
        running[0].send_signal(signal.SIGINT)
        status, _, err = finished(running)[0]
    assert status == 130, err
    assert "error:" not in err


# --- processes that do not fit together


def test_processes_with_different_settings_are_told_what_differs(tmp_path, settings):
    with ranks([train(settings), train(settings, "--lr", 0.05)]) as running:
        outcomes = finished(running)
    assert outcomes[1][0] == 2
    assert "process 1 was started with other settings than process 0: lr (0.05 here, None there)" in outcomes[1][2]
    assert outcomes[0][0] == 2
    assert "error: process 1 stopped: process 1 was started with other settings" in outcomes[0][2]
    assert not (settings.parent / "run").exists()


def test_processes_with_different_sources_of_a_model_are_told_so(tmp_path, settings):
    source = "from torch import nn\ndef small(classes): return nn.Sequential(nn.Flatten(), nn.Linear(256, classes))\n"
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "nets.py").write_text(source + f"# {name}\n")
    arguments = train(settings, "--model", "nets.py:small", "--blocks", 2)
    with ranks([arguments, arguments], folders=[tmp_path / "here", tmp_path / "there"]) as running:
        outcomes = finished(running)
    assert all(status == 2 for status, _, _ in outcomes)
    assert "other settings than process 0: sources of blocklocal and of the model" in outcomes[1][2]


def test_a_process_that_does_not_come_is_missed(tmp_path, settings):
    with ranks([train(settings, "--rendezvous-timeout", 10)] * 2, WORLD_SIZE="3") as running:
        outcomes = finished(running)
    for status, _, err in outcomes:
        assert status == 2
        assert "waited 10 s for 3 processes; 2 came, number 2 did not" in err, err


def test_a_port_that_refuses_is_said_with_what_to_look_at(tmp_path, settings):
    alone = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1", "WORLD_SIZE": "2", "RANK": "1"}
    status, said = failed(command(*train(settings, "--join", 2)), **alone)
    assert status == 2
    assert "process 1 cannot reach the store of the run at 127.0.0.1:1" in said
    assert "is the port open?" in said


SLOW = pytest.mark.slow  # the same words from the same functions: test_parallel_parts


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--processes", 4], "4 processes for 3 blocks: every process needs a block. Start at most 3"),
        (["--processes", 3, "--replicas", 2], "3 processes cannot form groups of 2 replicas"),
        pytest.param(["--processes", 2, "--rule", "backprop"], "the rule backprop cannot run in several", marks=SLOW),
        (["--processes", 2, "--twin", "chain"], "give --message-delay 1"),
        pytest.param(["--placement", 1, 2, "--processes", 2, "--twin", "chain"], "give --message-delay 1", marks=SLOW),
    ],
)
def test_what_cannot_be_spread_is_refused_with_the_reason_and_once(tmp_path, settings, more, words):
    status, said = failed(command(*train(settings, *more)))
    assert status == 2, said
    assert words in " ".join(said.split()), said
    assert said.count("error:") == 1
    assert "Traceback" not in said
    assert not (settings.parent / "run").exists()  # it would be in the way of the next try


def test_whether_a_twin_may_be_spread_does_not_depend_on_measured_times(tmp_path, settings):
    """A slow last block has a process to itself, and then no late message would cross a link."""
    source = """
import time
from torch import nn
class Slow(nn.Linear):
    def forward(self, x):
        time.sleep(0.05)
        return super().forward(x)
def slow(classes, **sizes):
    hidden = [nn.Linear(256, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU()]
    return nn.Sequential(nn.Flatten(), *hidden, Slow(8, classes))
"""
    (tmp_path / "nets.py").write_text(source)
    model = ["--model", f"{tmp_path / 'nets.py'}:slow", "--at", 3, 5, "--processes", 2, "--twin", "chain"]
    status, said = failed(command(*train(settings, *model)))
    assert status == 2, said
    assert "give --message-delay 1" in " ".join(said.split())
