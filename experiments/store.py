"""What a reproduction leaves on the disk: one JSON file per finished job, so that nothing is measured twice.

FOLDER/
    experiment.json     which experiment and size this is
    rows/JOB.json       the row of a finished job
    jobs/JOB/           what a job keeps to go on after a stop (a run folder, checkpoints)
    results.json        all rows, for other programs and for `docs/results.md`
    results.md, *.png, *.svg
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msgspec import Struct

from blocklocal._common.errors import InputError
from blocklocal._common.files import write_text
from blocklocal.schemas import Name, Seconds, Text, Whole, check, read_rows
from experiments.experiment import Job, Row


class Measured(Struct):
    """What every row has, whatever its experiment measures."""

    job: Name
    seconds: Seconds
    threads: Whole
    torch: Text
    device: Text


@dataclass(frozen=True)
class Store:
    """The folder of one experiment at one size."""

    folder: Path
    experiment: str
    size: str

    def open(self) -> None:
        """Make the folder, or make sure that it is of this experiment. Raises InputError where it is another's."""
        mark = self.folder / "experiment.json"
        own = {"experiment": self.experiment, "size": self.size}
        if mark.is_file():
            there = _read(mark)
            if there != own:
                raise InputError(f"{self.folder} holds {_words(there)}, not {_words(own)}: choose another --output.")
            return
        if self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
            raise InputError(
                f"{self.folder} exists and holds something else (no experiment.json): choose another --output."
            )
        (self.folder / "rows").mkdir(parents=True, exist_ok=True)
        write_text(mark, json.dumps(own) + "\n")

    def job_folder(self, job: Job) -> Path:
        return self.folder / "jobs" / job.name

    def row(self, job: Job) -> Row | None:
        """The row of a finished job, or None. Raises InputError for one that was measured with other settings."""
        path = self.folder / "rows" / f"{job.name}.json"
        if not path.is_file():
            return None
        row = _read(path)
        check(row, Measured, where=path, what="a row that `blocklocal reproduce` has measured")
        other = [
            f"{name} ({row.get(name)!r} there, {value!r} now)"
            for name, value in json.loads(json.dumps(job.settings)).items()
            if row.get(name) != value
        ]
        if other:
            raise InputError(
                f"{path} was measured with other settings: {', '.join(other)}. Choose another --output, or remove it."
            )
        return row

    def rows(self, jobs: Sequence[Job]) -> list[Row]:
        """The rows of all finished jobs, in the order of the jobs."""
        return [row for row in map(self.row, jobs) if row is not None]

    def keep(self, job: Job, row: Row) -> None:
        """Write a finished job's row; it is there whole or not at all."""
        path = self.folder / "rows" / f"{job.name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, to_json(row) + "\n")

    def merge(self, other: Path, jobs: Sequence[Job]) -> int:
        """Take over the rows of another folder of this experiment and size; returns how many were new."""
        if not (other / "experiment.json").is_file():
            raise InputError(
                f"{other} cannot be merged: it is no folder of `blocklocal reproduce` (no experiment.json)."
            )
        source = Store(other, self.experiment, self.size)
        source.open()
        new = [(job, row) for job in jobs if self.row(job) is None and (row := source.row(job)) is not None]
        for job, row in new:
            self.keep(job, row)
        return len(new)


def to_json(row: Row) -> str:
    """A row as JSON, a line per setting or result: pictures and curves would fill pages otherwise."""
    lines = [f"{json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}" for name, value in row.items()]
    return "{\n " + ",\n ".join(lines) + "\n}"


def _read(path: Path) -> dict:
    what = "one JSON object, as `blocklocal reproduce` writes it. Remove the file; what it held is measured again"
    return read_rows(path, dict[str, Any], what=what)


def _words(mark: dict) -> str:
    return f"{mark.get('experiment')} at size {mark.get('size')}"
