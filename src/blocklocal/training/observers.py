"""What watches a training run: metrics file, TensorBoard, checkpoints, warnings. The console is in `progress`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from blocklocal.training.checkpoint import save_checkpoint
from blocklocal.training.loop import Record, Trainer
from blocklocal.training.progress import NullProgress, Progress

COLLAPSED = 0.1  # of the message's first size: a warning below
LAGS = 2.0  # points that a block may be less accurate than the block before it


class MetricsFile:
    """Appends every record to `metrics.jsonl`, flushed line by line."""

    def __init__(self, path: Path):
        self.path = path

    def write(self, record: Record) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")

    def on_step(self, trainer: Trainer, losses: Sequence[float]) -> None:
        """Nothing: steps are not logged."""

    def on_epoch(self, trainer: Trainer, record: Record) -> None:
        self.write(record)


class TensorBoard:
    """Scalars per block, one point per epoch."""

    def __init__(self, folder: Path):
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder))

    def on_step(self, trainer: Trainer, losses: Sequence[float]) -> None:
        """Nothing: one point per epoch."""

    def on_epoch(self, trainer: Trainer, record: Record) -> None:
        for name in ("loss", "train_top1", "validation_top1", "message"):
            for k, value in enumerate(record[name]):
                if value is not None:
                    self.writer.add_scalar(f"{name}/block-{k + 1}", value, record["step"])
        self.writer.flush()


class Console:
    """Feeds the live table."""

    def __init__(self, progress: Progress | NullProgress):
        self.progress = progress

    def on_step(self, trainer: Trainer, losses: Sequence[float]) -> None:
        self.progress.step(trainer.step, losses)

    def on_epoch(self, trainer: Trainer, record: Record) -> None:
        self.progress.epoch(record)


class Checkpoints:
    """Saves after every epoch, and every so many steps where asked for."""

    def __init__(self, folder: Path, every: int | None = None):
        self.folder, self.every = folder, every

    def save(self, trainer: Trainer) -> Path:
        return save_checkpoint(self.folder, trainer.network, trainer.state())

    def on_step(self, trainer: Trainer, losses: Sequence[float]) -> None:
        if self.every and trainer.step % self.every == 0:
            self.save(trainer)

    def on_epoch(self, trainer: Trainer, record: Record) -> None:
        self.save(trainer)


class Warnings:
    """Says when a block's message has collapsed or its accuracy lags behind the block before it."""

    def __init__(self, first: Sequence[float | None], metrics: MetricsFile, progress: Progress | NullProgress):
        self.first = first  # |b| per block before training
        self.metrics, self.progress = metrics, progress
        self.said: set[tuple[int, str]] = set()

    def on_step(self, trainer: Trainer, losses: Sequence[float]) -> None:
        """Nothing: looked at once per epoch."""

    def on_epoch(self, trainer: Trainer, record: Record) -> None:
        for block, kind, text in find_warnings(record, self.first):
            if (block, kind) not in self.said:
                self.said.add((block, kind))
                self.progress.warn(text)
                self.metrics.write({"event": "warning", "epoch": record["epoch"], "block": block, "text": text})


def find_warnings(record: Record, first: Sequence[float | None]) -> list[tuple[int, str, str]]:
    """(block, kind, text) for everything suspicious in an epoch's record; `first`: |b| before training."""
    found: list[tuple[int, str, str]] = []
    for k, (size, before) in enumerate(zip(record["message"], first, strict=True)):
        if size is not None and before and size < COLLAPSED * before:
            text = (
                f"block {k + 1}: its backward message has collapsed (mean |b| {size:.2g}, at the start {before:.2g}); "
                "it teaches the block little. The evidence objective cannot collapse."
            )
            found.append((k + 1, "collapsed", text))
    accuracies = _accuracies(record)
    for k in range(1, len(accuracies)):
        here, before = accuracies[k], accuracies[k - 1]
        if here is not None and before is not None and here < before - LAGS:
            text = f"block {k + 1}: its accuracy ({here:.1f} %) lags that of block {k} ({before:.1f} %)."
            found.append((k + 1, "lags", text))
    return found


def _accuracies(record: Record) -> list[Any]:
    validation = record["validation_top1"]
    return validation if any(a is not None for a in validation) else record["train_top1"]
