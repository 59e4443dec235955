"""Oracle: the last good checkpoint. What a run says and keeps when something goes wrong."""

import errno
import json
import os
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from run_helpers import (
    STEPS,
    cli,
    file_limit,
    flags,
    metrics,
    newest,
    summary,
    tiny,
    weights,
)

from blocklocal.report.read import read_run
from blocklocal.runs.run import start_run
from blocklocal.training.checkpoint_folder import list_checkpoints
from blocklocal.training.observers import Console, MetricsFile, Warnings, find_warnings
from blocklocal.training.tally import NotFinite

pytestmark = pytest.mark.usefixtures("no_reports")

# --- losses and weights that are not finite


def poison(block: int, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """After `step`, a weight of `block` (from 1) is NaN."""

    def ruin(self, trainer, losses):
        if trainer.step == step:
            with torch.no_grad():
                next(trainer.network.learners[block - 1].block.parameters()).view(-1)[0] = float("nan")

    monkeypatch.setattr(Console, "step", ruin)


def finite(folder: Path) -> bool:
    return all(bool(t.isfinite().all()) for t in weights(folder).values() if t.is_floating_point())


@pytest.mark.parametrize("block", [1, 2])
def test_a_loss_that_is_not_finite_stops_the_run_with_block_and_step(tmp_path, monkeypatch, block):
    poison(block, step=4, monkeypatch=monkeypatch)
    said = cli("train", *flags(), "--quiet", "--output", tmp_path / "run")
    assert said.status == 2
    assert f"the loss of block {block} became nan at step 5" in said.text
    assert "lower --lr" in said.text
    assert newest(tmp_path / "run").name == "step-00000003"
    assert finite(tmp_path / "run")
    assert not (tmp_path / "run" / "summary.json").exists()


@pytest.mark.parametrize("step", [4, STEPS])
def test_weights_that_are_not_finite_never_become_a_checkpoint(tmp_path, monkeypatch, step):
    poison(2, step, monkeypatch)
    with pytest.raises(NotFinite, match=f"weights of block 2 are not finite after step {step}"):
        start_run(tiny(checkpoint_every=1), tmp_path / "run", quiet=True)
    assert newest(tmp_path / "run").name.startswith(f"step-{step - 1:08d}")
    assert finite(tmp_path / "run")


def test_a_diverging_learning_rate_ends_in_a_message_and_not_in_a_summary(tmp_path):
    said = cli("train", *flags(lr=1e6, schedule="constant"), "--quiet", "--output", tmp_path / "run")
    assert said.status == 2
    assert re.search(r"block \d .* step \d", said.text)
    assert not (tmp_path / "run" / "summary.json").exists()


# --- a full disk


@pytest.mark.parametrize("call", [1, 3, 5, 6, 8])
def test_a_full_disk_ends_with_1_a_message_and_the_older_checkpoint(tmp_path, monkeypatch, call):
    from blocklocal.training import checkpoint

    saves, real = [], checkpoint.Draft.write_saved

    def full(draft, saved):
        saves.append(draft)
        if len(saves) == call:
            (draft.partial / "half").write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(draft.partial))
        real(draft, saved)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.Draft, "write_saved", full)
        said = cli("train", *flags(checkpoint_every=2), "--quiet", "--output", tmp_path / "run")
    assert said.status == 1
    assert "No space left on device" in said.text
    assert "Free some space" in said.text
    assert "Traceback" not in said.text
    done = [path.name for path in list_checkpoints(tmp_path / "run" / "checkpoints")]
    assert done == [f"step-{step:08d}" for step in (2, 3, 4, 6)[: (call - 1) // 2][-2:]]
    assert not list((tmp_path / "run" / "checkpoints").glob(".*"))
    assert cli("train", "--resume", tmp_path / "run", "--quiet").status == 0


def test_a_disk_that_really_takes_no_more_ends_with_1_and_no_traceback(tmp_path):
    with file_limit(8192):
        said = cli("train", *flags(width=64), "--quiet", "--output", tmp_path / "run")
    assert said.status == 1
    assert "cannot write: File too large" in said.err
    assert "Traceback" not in said.text
    assert not list((tmp_path / "run" / "checkpoints").iterdir())


def test_a_summary_that_could_not_be_written_is_not_there_and_the_run_can_be_finished(tmp_path, monkeypatch):
    real = Path.write_bytes

    def full(self, content):
        if "summary" in self.name:
            real(self, content[:10])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(self, content)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        assert cli("train", *flags(), "--quiet", "--output", tmp_path / "run").status == 1
    assert not [path for path in (tmp_path / "run").iterdir() if "summary" in path.name]
    assert cli("train", "--resume", tmp_path / "run", "--quiet").status == 0
    assert summary(tmp_path / "run")["finished"]


def test_a_folder_that_could_not_be_set_up_is_not_there(tmp_path, monkeypatch):
    def full(self, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    assert cli("train", *flags(), "--quiet", "--output", tmp_path / "run").status == 1
    assert list(tmp_path.iterdir()) == []


# --- warnings


def record(message, train, validation=None):
    return {"message": message, "train_top1": train, "validation_top1": validation or [None] * len(train)}


def kinds(found):
    return [(block, kind) for block, kind, _ in found]


def test_a_message_below_a_tenth_of_its_first_size_is_collapsed():
    found = find_warnings(record([0.099, 0.101, None], [50, 50, 50]), [1.0, 1.0, None])
    assert kinds(found) == [(1, "collapsed")]
    assert "block 1" in found[0][2]
    assert "evidence" in found[0][2]


def test_a_message_that_was_never_there_cannot_collapse():
    assert find_warnings(record([0.0, None], [50, 50]), [0.0, None]) == []


def test_a_block_more_than_two_points_below_the_block_before_it_lags():
    assert kinds(find_warnings(record([None] * 3, [50.0, 48.0, 45.9]), [None] * 3)) == [(3, "lags")]


def test_lag_is_judged_on_validation_where_there_is_one():
    assert find_warnings(record([None] * 2, [90, 10], [50, 60]), [None] * 2) == []
    assert kinds(find_warnings(record([None] * 2, [10, 90], [60, 50]), [None] * 2)) == [(2, "lags")]


def test_a_block_without_a_prediction_neither_lags_nor_is_lagged_behind():
    assert find_warnings(record([None] * 3, [90, None, 10]), [None] * 3) == []


class Lines:
    def __init__(self):
        self.lines = []

    def warn(self, text):
        self.lines.append(text)


def test_a_warning_is_said_once_also_by_a_resumed_run(tmp_path):
    said, file = Lines(), MetricsFile(tmp_path / "metrics.jsonl")
    for _ in range(2):
        watcher = Warnings([1.0, None], MetricsFile(file.path), said)
        for epoch in (1, 2):
            watcher.epoch(SimpleNamespace(records=[]), {"epoch": epoch, **record([0.01, None], [50, 50])})
    assert len(said.lines) == 1
    lines = [json.loads(line) for line in file.path.read_text().splitlines()]
    assert [(line["event"], line["epoch"], line["block"], line["kind"]) for line in lines] == [
        ("warning", 1, 1, "collapsed")
    ]


def test_collapsed_and_lagging_blocks_are_warned_of_on_the_console_and_in_the_metrics(tmp_path):
    # Weight decay alone shrinks every message; without training the last block stays where it is.
    settings = {"objective": "variational", "family": "bernoulli", "weight_decay": 9.0, "schedule": "constant"}
    said = cli("train", *flags(**settings, epochs=1, train_size=200, batch_size=10), "--output", tmp_path / "run")
    assert said.status == 0
    assert "warning: block 1: its backward message has collapsed" in said.text
    warned = [line for line in metrics(tmp_path / "run") if line["event"] == "warning"]
    assert [(line["block"], line["kind"]) for line in warned if line["kind"] == "collapsed"] == [(1, "collapsed")]
    assert any("collapsed" in text for text in read_run(tmp_path / "run").warnings)


def test_a_lagging_block_is_warned_of_on_the_console_and_in_the_metrics(tmp_path, monkeypatch):
    monkeypatch.setattr("blocklocal.training.observers.LAGS", -100.0)  # any block lags then
    said = cli("train", *flags(epochs=3), "--output", tmp_path / "run")
    assert "warning: block 2: its accuracy" in said.text
    warned = [line for line in metrics(tmp_path / "run") if line["event"] == "warning"]
    assert [(line["kind"], line["epoch"]) for line in warned] == [("lags", 2)]  # one epoch may be chance
