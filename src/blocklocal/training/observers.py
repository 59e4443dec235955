"""What watches a training run: metrics file, TensorBoard, checkpoints, warnings. The console is in `progress`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from msgspec import Struct

from blocklocal._common.errors import InputError
from blocklocal._common.files import MOST_LINES, cut_half_line, is_there, read_bytes
from blocklocal.network.neighbours import Neighbours
from blocklocal.schemas import NotJson, check, parse
from blocklocal.schemas.run import Epoch, Warned
from blocklocal.training.callbacks import Callback, Record
from blocklocal.training.checkpoint import save_checkpoint
from blocklocal.training.loop import Trainer
from blocklocal.training.progress import NullProgress, Progress
from blocklocal.training.tally import check_weights

S = TypeVar("S", bound=Struct)
COLLAPSED = 0.1  # of the message's first size: a warning below
LAGS = 2.0  # points that a block may be less accurate than the block before it


class MetricsFile(Callback):
    """Appends every record to `metrics.jsonl`, flushed line by line."""

    def __init__(self, path: Path):
        self.path = path
        cut_half_line(path)

    def warnings(self) -> set[tuple[int, str]]:
        """(block, kind) of the warnings written so far."""
        if not is_there(self.path):
            return set()
        lines = read_bytes(self.path, what="one JSON object a line", most=MOST_LINES).split(b"\n")
        said = [warned for line in lines if (warned := _line(line, "warning", Warned)) is not None]
        return {(warned.block, warned.kind) for warned in said if warned.block and warned.kind}

    @staticmethod
    def epochs(path: Path) -> int:
        """The last epoch, from 1, that is written down in such a file; 0 for none, or no file."""
        if not is_there(path):
            return 0
        lines = read_bytes(path, what="one JSON object a line", most=MOST_LINES).split(b"\n")
        return max((epoch.epoch for line in lines if (epoch := _line(line, "epoch", Epoch))), default=0)

    def write(self, record: Record) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")

    def epoch(self, trainer: Trainer, record: Record) -> None:
        self.write(record)


def _line(line: bytes, event: str, kind: type[S]) -> S | None:
    """A line of `metrics.jsonl`, if it is of this event. The report, not training, complains of a damaged line."""
    try:
        record = check(parse(line, gaps=True), dict[str, Any], where="a line", what="an object")
        return check(record, kind, where="a line", what=event) if record.get("event") == event else None
    except (NotJson, InputError):
        return None


class Console(Callback):
    """Feeds the live table."""

    def __init__(self, progress: Progress | NullProgress):
        self.progress = progress

    def step(self, trainer: Trainer, losses: Sequence[float]) -> None:
        self.progress.step(trainer.step, losses)

    def epoch(self, trainer: Trainer, record: Record) -> None:
        self.progress.epoch(record)


class Checkpoints(Callback):
    """Saves after every epoch, and every so many steps where asked for, as soon as all blocks have taken them."""

    def __init__(self, folder: Path, every: int | None = None):
        self.folder, self.every, self._saved = folder, every, 0

    def save(self, trainer: Trainer) -> Path:
        """Write a checkpoint of the trainer.

        Raises:
            NotFinite: a weight is NaN or infinite; the last good checkpoint stays.
        """
        check_finite(trainer.network)
        self._saved = trainer.step
        return save_checkpoint(self.folder, trainer.network, trainer.state())

    def start(self, trainer: Trainer) -> None:
        self._saved = trainer.step

    def step(self, trainer: Trainer, losses: Sequence[float]) -> None:
        if saves_now(trainer, self.every, self._saved):
            self.save(trainer)

    def epoch(self, trainer: Trainer, record: Record) -> None:
        self.save(trainer)


def saves_now(trainer: Trainer, every: int | None, saved: int) -> bool:
    """Whether `every` steps are over since a checkpoint after `saved` steps, and all blocks have taken them."""
    return every is not None and trainer.step // every > saved // every and trainer.whole


def check_finite(network: Neighbours) -> None:
    """Raise NotFinite, with block and step, where an update has made a weight NaN or infinite."""
    network.each(lambda learner: check_weights(learner, network.steps), optimizers=False)


class Warnings(Callback):
    """Says when a block's message has collapsed, or its accuracy has lagged that of the block before for two epochs."""

    def __init__(self, first: Sequence[float | None], metrics: MetricsFile, progress: Progress | NullProgress):
        self.first = first  # |b| per block before training
        self.metrics, self.progress = metrics, progress
        self.said = metrics.warnings()  # of a resumed run: nothing is said twice

    def epoch(self, trainer: Trainer, record: Record) -> None:
        lagged = {block for block, kind, _ in self._before(trainer) if kind == "lags"}
        for block, kind, text in find_warnings(record, self.first):
            passing = kind == "lags" and block not in lagged  # BatchNorm's statistics wander in the first epochs
            if (block, kind) not in self.said and not passing:
                self.said.add((block, kind))
                self.progress.warn(text)
                said = {"event": "warning", "epoch": record["epoch"], "block": block, "kind": kind, "text": text}
                self.metrics.write(said)

    def _before(self, trainer: Trainer) -> list[tuple[int, str, str]]:
        """What was suspicious in the epoch before this one."""
        return find_warnings(trainer.records[-2], self.first) if len(trainer.records) > 1 else []


def find_warnings(record: Record, first: Sequence[float | None]) -> list[tuple[int, str, str]]:
    """(block, kind, text) for everything suspicious in an epoch's record.

    Args:
        first: |b| before training.
    """
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
    """Of every block; none where something else is measured."""
    validation = record.get("validation_top1", [])
    return validation if any(a is not None for a in validation) else record.get("train_top1", [])
