"""Oracle: the uninterrupted run. A run stopped anywhere and resumed is the same run, bit for bit."""

import errno
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from run_helpers import (
    STEPS,
    assert_refused,
    assert_same_run,
    cli,
    equal,
    metrics,
    newest,
    stopped,
    stopping,
    tiny,
    weights,
    whole,
    with_dropout,
    without_reports,
)

from blocklocal._common.errors import InputError
from blocklocal.report.read import read_run
from blocklocal.runs.config import Config
from blocklocal.runs.run import resume_run, start_run
from blocklocal.training.checkpoint_folder import list_checkpoints
from blocklocal.training.observers import Checkpoints, Console


@pytest.fixture(scope="module", autouse=True)
def _no_reports() -> Iterator[None]:
    with without_reports():
        yield


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with dropout and augmentation that nothing interrupted."""
    return whole(with_dropout(), tmp_path_factory.mktemp("reference") / "run")


# --- stopped after a step


@pytest.mark.parametrize("steps", range(1, STEPS + 1))
def test_a_run_stopped_after_any_step_ends_as_the_uninterrupted_one(tmp_path, reference, steps):
    run = stopped(with_dropout(), tmp_path / "run", steps)
    assert newest(run).name == f"step-{steps:08d}"
    assert not (run / "summary.json").exists()
    resume_run(run, quiet=True)
    assert_same_run(run, reference)


def test_the_reference_depends_on_dropout_and_augmentation(tmp_path, reference):
    plain = whole(with_dropout(augment="", model_options={}), tmp_path / "run")
    assert not equal(weights(plain), weights(reference))


def test_a_run_stopped_again_and_again_ends_as_the_uninterrupted_one(tmp_path, reference):
    run = stopped(with_dropout(), tmp_path / "run", 1)
    for _ in range(STEPS - 1):
        with stopping(1):
            resume_run(run, quiet=True)
    resume_run(run, quiet=True)
    assert_same_run(run, reference)


KINDS = {
    "adam with clipping and cosine": {"optimizer": "adam", "lr": 0.01, "clip": 0.5, "schedule": "cosine"},
    "adamw, constant": {"optimizer": "adamw", "lr": 0.01, "schedule": "constant"},
    "neighbour scope": {"scope": "neighbour", "blocks": 3},
    "chained twin, readout, reconstruction": {"twin": "chain", "readout": 1, "reconstruction": 1.0, "blocks": 3},
    "mixing that depends on the epoch": {"objective": "variational", "family": "bernoulli", "tau": 0.5},
    "backprop": {"rule": "backprop"},
    "feedback alignment": {"rule": "feedback-alignment"},
    "direct feedback": {"rule": "direct-feedback-alignment"},
    "greedy": {"rule": "greedy"},
    "frozen": {"rule": "frozen"},
    "convolutions, channels last": {"model": "resnet20", "width": 4},
}


@pytest.mark.parametrize("kind", KINDS)
def test_resuming_in_the_second_epoch_is_exact_with(tmp_path, kind):
    config = tiny(**KINDS[kind])
    run = stopped(config, tmp_path / "run", 4)
    resume_run(run, quiet=True)
    assert_same_run(run, whole(config, tmp_path / "whole"))


# --- not stopped but killed


class Killed(BaseException):
    """The process was gone."""


def killed_at(step: int, config: Config, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    def kill(self, trainer, losses):
        if trainer.step == step:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Console, "step", kill)
        with pytest.raises(Killed):
            start_run(config, folder, quiet=True)
    return folder


def test_a_killed_run_goes_on_from_the_last_checkpoint_in_mid_epoch(tmp_path, monkeypatch, reference):
    run = killed_at(6, with_dropout(checkpoint_every=2), tmp_path / "run", monkeypatch)
    assert newest(run).name == "step-00000004"
    resume_run(run, quiet=True)
    assert_same_run(run, reference)


def test_a_run_killed_before_its_first_checkpoint_starts_anew_in_its_folder(tmp_path, monkeypatch, reference):
    run = killed_at(2, with_dropout(), tmp_path / "run", monkeypatch)
    assert not list_checkpoints(run / "checkpoints")
    resume_run(run, quiet=True)
    assert_same_run(run, reference)


def without_checkpoints(run: Path) -> Path:
    shutil.rmtree(run / "checkpoints")
    return run


GONE = ("holds no complete checkpoint", "weights are gone", "blocklocal train --config")


@pytest.mark.parametrize("more", [(), ("--epochs", 3)], ids=["as it was", "longer"])
def test_a_finished_run_whose_checkpoints_are_gone_is_not_trained_anew(tmp_path, more):
    run = without_checkpoints(whole(tiny(), tmp_path / "run"))
    (run / "report.html").unlink()
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    assert_refused(cli("train", "--resume", run, *more, "--quiet"), *GONE)
    said = cli("evaluate", run)
    assert_refused(said, *GONE)
    assert "--resume" not in said.text  # which would lead back here
    assert {file: file.read_bytes() for file in before} == before


def test_a_stopped_run_that_has_written_down_epochs_and_lost_its_checkpoints_is_not_trained_anew(tmp_path):
    run = without_checkpoints(stopped(tiny(), tmp_path / "run", 4))
    assert_refused(cli("train", "--resume", run, "--quiet"), *GONE)


def test_a_run_whose_first_checkpoint_could_not_be_written_starts_anew_in_its_folder(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr("blocklocal.training.checkpoint_draft.write_checksums", full)
        with pytest.raises(OSError, match="full"):
            start_run(tiny(), tmp_path / "run", quiet=True)
    resume_run(tmp_path / "run", quiet=True)
    assert_same_run(tmp_path / "run", whole(tiny(), tmp_path / "whole"))


def test_an_epoch_whose_checkpoint_was_not_saved_is_recorded_again_and_counts_once(tmp_path, monkeypatch):
    config = tiny(checkpoint_every=2)

    def kill(self, trainer, record):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "epoch", kill)
        with pytest.raises(Killed):
            start_run(config, tmp_path / "run", quiet=True)
    resume_run(tmp_path / "run", quiet=True)
    epochs = [r["epoch"] for r in metrics(tmp_path / "run") if r["event"] == "epoch"]
    assert epochs == [1, 1, 2]
    assert_same_run(tmp_path / "run", whole(config, tmp_path / "whole"))


def test_a_run_killed_after_its_last_epoch_is_finished_by_resuming(tmp_path, monkeypatch):
    config = tiny()
    with monkeypatch.context() as patch:
        patch.setattr("blocklocal.runs.train.conclude", lambda *_: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            start_run(config, tmp_path / "run", quiet=True)
    resume_run(tmp_path / "run", quiet=True)
    assert_same_run(tmp_path / "run", whole(config, tmp_path / "whole"))


def test_a_half_written_line_of_metrics_is_cut_before_more_is_appended(tmp_path):
    run = stopped(tiny(), tmp_path / "run", 4)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"event": "epo')
    resume_run(run, quiet=True)
    assert [record["epoch"] for record in read_run(run).epochs] == [1, 2]
    assert '{"event": "epo{' not in (run / "metrics.jsonl").read_text()


# --- another checkpoint, or none to go on from


def test_a_damaged_checkpoint_is_refused_and_the_older_one_named_goes_on(tmp_path, reference):
    run = stopped(with_dropout(), tmp_path / "run", 5)
    (newest(run) / "block-1.safetensors").write_bytes(b"nothing")
    refused = cli("train", "--resume", run)
    assert refused.status == 2
    name = re.search(r"--checkpoint (step-\d+)", refused.text)
    assert name is not None
    assert name[1] == "step-00000003"
    assert cli("train", "--resume", run, "--checkpoint", name[1], "--quiet").status == 0
    assert_same_run(run, reference)


def test_an_unknown_checkpoint_is_refused_with_those_that_are_there(tmp_path):
    run = stopped(tiny(), tmp_path / "run", 4)
    with pytest.raises(InputError, match=r"no checkpoint 'step-9'\. There: step-00000003, step-00000004"):
        resume_run(run, checkpoint="step-9")


def test_a_finished_run_is_not_resumed(tmp_path):
    run = whole(tiny(), tmp_path / "run")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    said = cli("train", "--resume", run)
    assert said.status == 2
    assert "is finished" in said.text
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("flag", [("--batch-size", "3"), ("--lr=0.2",), ("--recipe", "quickstart"), ("--output", "x")])
def test_resume_refuses_other_settings_instead_of_ignoring_them(tmp_path, flag):
    run = stopped(tiny(), tmp_path / "run", 4)
    said = cli("train", "--resume", run, *flag)
    assert said.status == 2
    assert f"leave out {flag[0].partition('=')[0]}" in said.text


@pytest.mark.parametrize("flag", ["--processes", "--max-in-flight", "--queue", "--message-timeout", "--timeline"])
def test_a_resumed_run_may_be_spread_in_another_way(tmp_path, flag):
    said = cli("train", "--resume", tmp_path / "missing", flag, 2)
    assert "no run folder" in said.text  # that is all that is wrong


def test_a_folder_that_is_no_run_is_not_resumed(tmp_path):
    (tmp_path / "empty").mkdir()
    for folder, words in ((tmp_path / "empty", "neither a run"), (tmp_path / "missing", "no run folder")):
        said = cli("train", "--resume", folder)
        assert said.status == 2
        assert words in said.text
    assert not list((tmp_path / "empty").iterdir())


def test_a_run_is_not_resumed_on_a_data_set_that_has_changed(tmp_path):
    run = stopped(tiny(), tmp_path / "run", 4)
    facts = (run / "data.json").read_text()
    (run / "data.json").write_text(facts.replace('"height": 8', '"height": 9'))
    with pytest.raises(InputError, match="not what the run"):
        resume_run(run, quiet=True)


def test_the_state_of_torch_is_left_alone_by_a_run(tmp_path):
    before = torch.get_rng_state()
    whole(with_dropout(), tmp_path / "run")
    assert torch.equal(torch.get_rng_state(), before)
