"""Oracle: the uninterrupted run. Real signals to real processes: what they say, and that the run goes on as it was."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from parallel_helpers import python, started
from run_helpers import assert_same_run, whole, with_dropout, without_reports

from blocklocal.runs.config import Config
from blocklocal.runs.run import resume_run
from blocklocal.training.checkpoint_folder import list_checkpoints
from blocklocal.training.signals import StopSignals


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run with dropout and augmentation that nothing interrupted."""
    with without_reports():
        yield whole(with_dropout(), tmp_path_factory.mktemp("reference") / "run")


# Every step waits a little, so that a signal arrives in the middle of a run whatever the machine's speed.
SLOW = """
import sys, time
from blocklocal.network.network import BlockLocal
step = BlockLocal.step
def slow(self, *given, **how):
    time.sleep(0.5)
    return step(self, *given, **how)
BlockLocal.step = slow
from blocklocal.cli import main
sys.exit(main(sys.argv[1:]))
"""

# Says when the second checkpoint is half written, and waits there.
HANGS = """
import os, sys, time
from blocklocal.training import checkpoint
write = checkpoint.Draft.write
def hang(draft, units):
    if draft.step != 2:
        (draft.partial / "block-0.safetensors").write_bytes(b"half")
        print("saving", flush=True)
        time.sleep(60)
    write(draft, units)
checkpoint.Draft.write = hang
from blocklocal.cli import main
sys.exit(main(sys.argv[1:]))
"""


def wait_for(path: Path, process: subprocess.Popen[str], pattern: str) -> None:
    while not any(path.glob(pattern)):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)


def settings_file(config: Config, folder: Path) -> Path:
    config.save(folder / "settings.json")
    return folder / "settings.json"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_process_with_130_and_a_run_that_goes_on(tmp_path, reference, number):
    config, run = with_dropout(checkpoint_every=1), tmp_path / "run"
    command = python(SLOW, "train", "--config", settings_file(config, tmp_path), "--output", run)
    with started([command], real=number == signal.SIGINT) as (process,):
        wait_for(run / "checkpoints", process, "step-*")
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"blocklocal train --resume {run}" in err
    assert "Traceback" not in err
    assert not (run / "summary.json").exists()
    resume_run(run, quiet=True)
    assert_same_run(run, reference)


def test_a_process_killed_while_it_saves_leaves_a_run_that_goes_on(tmp_path, reference):
    config, run = with_dropout(checkpoint_every=2), tmp_path / "run"
    command = python(HANGS, "train", "--config", settings_file(config, tmp_path), "--output", run, "--quiet")
    with started([command]) as (process,):
        assert process.stdout is not None
        assert process.stdout.readline() == "saving\n"
        process.kill()
        process.communicate()
    assert [path.name for path in list_checkpoints(run / "checkpoints")] == ["step-00000002"]
    assert list((run / "checkpoints").glob(".partial-*"))
    resume_run(run, quiet=True)
    assert not list((run / "checkpoints").glob(".partial-*"))
    assert_same_run(run, reference)


def test_the_first_signal_asks_and_the_second_acts_as_usual():
    before = signal.getsignal(signal.SIGTERM)
    with StopSignals() as signals:
        assert not signals.asked
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.asked
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before
