"""Oracle: a run of its own schedule. `--resume RUN --epochs MORE` trains a finished run on."""

import json
from pathlib import Path

import pytest
from parallel_helpers import command, finished, started
from run_helpers import (
    assert_same_run,
    cli,
    equal,
    metrics,
    newest,
    stopped,
    stopping,
    summary,
    tiny,
    weights,
    whole,
)

from blocklocal._common.errors import InputError
from blocklocal.runs import origin
from blocklocal.runs.config import load_config
from blocklocal.runs.run import resume_run

pytestmark = pytest.mark.usefixtures("no_reports")


def rates(folder: Path) -> list[float]:
    return [line["lr"] for line in metrics(folder) if line["event"] == "epoch"]


def test_the_schedule_begins_anew_for_the_epochs_that_are_added(tmp_path):
    run = whole(tiny(schedule="cosine", lr=0.2), tmp_path / "run")
    resume_run(run, epochs=4, quiet=True)
    assert rates(run) == pytest.approx([0.2, 0.1, 0.2, 0.1])
    assert load_config(run).optimisation.epochs == 4
    assert (summary(run)["epochs"], summary(run)["finished"]) == (4, True)


@pytest.mark.parametrize("schedule", ["one-cycle", "cosine", "constant"])
def test_a_run_that_is_trained_longer_can_be_stopped_and_ends_alike(tmp_path, schedule):
    run, other = (whole(tiny(schedule=schedule), tmp_path / name) for name in ("run", "other"))
    resume_run(other, epochs=4, quiet=True)
    for steps in (1, 2, 1):
        with stopping(steps):
            resume_run(run, epochs=4, quiet=True)
    resume_run(run, quiet=True)
    assert_same_run(run, other)


def test_a_constant_schedule_trained_longer_is_the_run_of_all_epochs(tmp_path):
    run = whole(tiny(schedule="constant"), tmp_path / "run")
    resume_run(run, epochs=3, quiet=True)
    assert equal(weights(run), weights(whole(tiny(schedule="constant", epochs=3), tmp_path / "whole")))


def test_several_processes_train_a_run_longer_as_one_does(tmp_path):
    run, other = (whole(tiny(), tmp_path / name) for name in ("run", "other"))
    resume_run(other, epochs=3, quiet=True)
    with started([command("train", "--resume", run, "--epochs", 3, "--processes", 2, "--quiet")]) as running:
        status, _, err = finished(running)[0]
    assert status == 0, err
    assert_same_run(run, other)


def test_the_summary_of_fewer_epochs_is_kept(tmp_path):
    run = whole(tiny(), tmp_path / "run")
    before = summary(run)
    resume_run(run, epochs=3, quiet=True)
    assert json.loads((run / "summary-epoch-2.json").read_text()) == before


@pytest.mark.parametrize("epochs", [1, 2])
def test_epochs_that_add_nothing_are_refused(tmp_path, epochs):
    run = whole(tiny(), tmp_path / "run")
    said = cli("train", "--resume", run, "--epochs", epochs)
    assert said.status == 2
    assert "Give more than 2" in said.text
    assert summary(run)["epochs"] == 2


def test_a_run_that_is_not_finished_is_finished_first(tmp_path):
    run = stopped(tiny(), tmp_path / "run", steps=2)
    with pytest.raises(InputError, match="finish it first"):
        resume_run(run, epochs=4, quiet=True)


class Killed(BaseException):
    """The process was gone."""


@pytest.mark.parametrize("place", ["complete_extension", "Config.save", "Path.unlink"])
def test_a_kill_while_epochs_are_added_leaves_a_run_that_goes_on(tmp_path, monkeypatch, place):
    run, other = (whole(tiny(), tmp_path / name) for name in ("run", "other"))
    resume_run(other, epochs=3, quiet=True)

    def kill(*_, **__):
        raise Killed

    targets = {
        "complete_extension": "blocklocal.runs.origin.complete_extension",
        "Config.save": "blocklocal.runs.config.Config.save",
        "Path.unlink": "pathlib.Path.unlink",
    }
    with monkeypatch.context() as patch:
        patch.setattr(targets[place], kill)
        with pytest.raises(Killed):
            origin.extend(run, 3)
    resume_run(run, quiet=True)
    assert_same_run(run, other)
    assert newest(run).name == "step-00000009"
    assert weights(run)


def before_and_after(run: Path, *arguments: object) -> str:
    """What a refused command says; the run must be left as it was."""
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with started([command("train", "--resume", run, *arguments, "--quiet")]) as running:
        status, _, err = finished(running)[0]
    assert status == 2, err
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    return " ".join(err.split())


@pytest.mark.parametrize("more", [(), ("--processes", 2)], ids=["one process", "two"])
def test_a_run_that_may_not_go_on_keeps_its_result(tmp_path, more):
    run = whole(tiny(), tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "lr": 0.01}))
    assert "lr: 0.1 then, 0.01 now" in before_and_after(run, "--epochs", 4, *more)


def test_epochs_that_were_raised_in_the_settings_do_not_cost_the_result(tmp_path):
    run = whole(tiny(), tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "epochs": 3}))
    assert "epochs: 2 then, 3 now" in before_and_after(run)


def test_a_checkpoint_of_before_the_epochs_were_added_is_refused(tmp_path):
    run = whole(tiny(), tmp_path / "run")
    with stopping(1):
        resume_run(run, epochs=4, quiet=True)
    first = min(path.name for path in (run / "checkpoints").glob("step-*"))
    assert first == "step-00000006"  # the last one of the first schedule
    resume_run(run, checkpoint=first, quiet=True)
    other = whole(tiny(), tmp_path / "other")
    earlier = min(path.name for path in (other / "checkpoints").glob("step-*"))
    with pytest.raises(InputError, match="its schedule has ended"):
        resume_run(other, epochs=4, checkpoint=earlier, quiet=True)
