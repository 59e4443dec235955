"""Tiny runs, how two of them are compared, and the command line called in this process."""

from __future__ import annotations

import contextlib
import io
import json
import re
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from no_reports import empty_report
from safetensors.torch import load_file

from blocklocal._common.errors import Interrupted
from blocklocal.cli import main
from blocklocal.report.read import read_run
from blocklocal.runs.calibrate import calibrate_run
from blocklocal.runs.config import Config
from blocklocal.runs.run import start_run
from blocklocal.training.checkpoint_files import Files
from blocklocal.training.checkpoint_folder import list_checkpoints

TIMES = ("seconds", "images_per_second", "evaluation_seconds")
SPREAD = ("processes", "placement")  # how it was run, of a summary
TINY: dict[str, Any] = {
    "model": "mlp",
    "width": 4,
    "blocks": 2,
    "readout": 0,
    "epochs": 2,
    "train_size": 60,
    "batch_size": 20,
    "validation": 20,
    "test_size": 30,
    "threads": 1,
    "tensorboard": False,
}
STEPS = 6  # of a tiny run: 2 epochs of 3


def tiny(**changes: Any) -> Config:
    """A run of milliseconds: digits, an MLP of width 4 in 2 blocks, 2 epochs of 3 steps."""
    return Config().edit(**{**TINY, **changes})


def with_dropout(**changes: Any) -> Config:
    """As `tiny`, with all that draws random numbers while training: dropout and augmentation."""
    drawn = {"model": "vgg8b", "model_options": {"dropout": "0.3"}, "image_size": 16, "augment": "crop,flip,cutout"}
    return tiny(**{**drawn, "blocks": 3, **changes})


def flags(**changes: Any) -> list[str]:
    """The settings of `tiny` as the command line takes them."""
    texts: list[str] = []
    for name, value in {**TINY, **changes}.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            texts.append(f"--{option}" if value else f"--no-{option}")
        else:
            texts += [f"--{option}", str(value)]
    return texts


@dataclass(frozen=True)
class Said:
    """What a command returned and printed; `text` is both outputs without boxes and line breaks."""

    status: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return re.sub(r"[\s│╭╮╰╯─]+", " ", self.out + self.err)


def cli(*arguments: object) -> Said:
    """Call the command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main([str(argument) for argument in arguments])
    return Said(status, out.getvalue(), err.getvalue())


def train(folder: Path, *more: object, **changes) -> Said:
    return cli("train", *flags(**changes), *more, "--output", folder / "run", "--quiet")


def assert_refused(said: Said, *words: str, folder: Path | None = None) -> None:
    """Status 2, all of `words`, no traceback, and no run folder."""
    assert said.status == 2, said.text
    for word in words:
        assert word in said.text, said.text
    assert "Traceback" not in said.text
    if folder is not None:
        assert not (folder / "run").exists()


@contextlib.contextmanager
def file_limit(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes: the nearest thing to a full disk that needs no rights."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def without_reports() -> Iterator[None]:
    """Runs in this process write no reports."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("blocklocal.report.write_report", empty_report)
        yield


def whole(config: Config, folder: Path) -> Path:
    """Train without interruption; returns the folder."""
    start_run(config, folder, quiet=True)
    return folder


def calibrated(folder: Path, **changes: Any) -> Path:
    """A small run with a validation part of 300 samples, trained for 3 epochs and calibrated."""
    sizes = {"model": "resnet20", "width": 8, "blocks": 3, "epochs": 3, "train_size": 500, "test_size": 200}
    with without_reports():
        whole(tiny(**{**sizes, "validation": 300, **changes}), folder)
    calibrate_run(folder)
    return folder


class StopAfter:
    """Stands for the signals of a user who presses Ctrl-C during step `steps` of this process."""

    def __init__(self, steps: int):
        self.steps, self.asked_for = steps, 0

    @property
    def asked(self) -> bool:
        self.asked_for += 1
        return self.asked_for == self.steps

    def __enter__(self) -> StopAfter:
        return self

    def __exit__(self, *_: object) -> None:
        return None


@contextlib.contextmanager
def stopping(steps: int) -> Iterator[None]:
    """The run that goes on in here is stopped by its user during step `steps`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("blocklocal.runs.train.StopSignals", lambda: StopAfter(steps))
        with pytest.raises(Interrupted):
            yield


def stopped(config: Config, folder: Path, steps: int = 4) -> Path:
    """A run that its user stopped during step `steps`."""
    with stopping(steps):
        start_run(config, folder, quiet=True)
    return folder


def newest(folder: Path) -> Path:
    return list_checkpoints(folder / "checkpoints")[-1]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a run's newest checkpoint (or of the checkpoint `folder` itself)."""
    path = folder if folder.name.startswith("step-") else newest(folder)
    files = sorted(path.glob("*.safetensors"))
    return {f"{file.stem}/{name}": tensor for file in files for name, tensor in load_file(file).items()}


def learners(folder: Path) -> list[Any]:
    """Optimiser and schedule of every block, as a checkpoint has them."""
    files = Files.open(newest(folder))
    return [files.optimizer(k) for k in range(len(list(files.path.glob("*.optimizer"))))]


def equal(a: Any, b: Any) -> bool:
    """Equal through dictionaries and lists, tensors bit for bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b)


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


def timeless(record: dict[str, Any]) -> dict[str, Any]:
    """A record or summary without the figures that no two runs share."""
    return {name: value for name, value in record.items() if name not in TIMES}


def assert_same_run(run: Path, other: Path) -> None:
    """Same final weights, optimisers, schedules, metrics, warnings and summary; only times and processes may differ."""
    assert equal(weights(run), weights(other))
    assert equal(learners(run), learners(other))
    assert [timeless(r) for r in read_run(run).epochs] == [timeless(r) for r in read_run(other).epochs]
    assert read_run(run).warnings == read_run(other).warnings
    of_run, of_other = ({k: v for k, v in timeless(summary(each)).items() if k not in SPREAD} for each in (run, other))
    assert of_run == of_other
