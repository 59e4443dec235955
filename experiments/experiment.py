"""What an experiment is: a list of jobs, how one of them is measured, and what is made of the rows they leave.

An experiment is one file in this package that registers an `Experiment`. It knows nothing of how jobs are spread over
processes, stopped, resumed or merged (`runner.py`): a job gets a folder and gives a row.

    jobs(size)          every measurement, in the order in which they should run
    run(job, place)     one measurement → its result (JSON-able)
    write(rows, folder) tables and figures, from the rows alone, so that they can be re-made at any time
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from blocklocal._common.registry import Registry

SIZES = ("quick", "full")
Row = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One measurement. name: unique in its experiment, fit for a file name. settings: JSON-able, they decide it."""

    name: str
    settings: dict[str, Any] = field(default_factory=dict)


def never() -> bool:
    return False


@dataclass(frozen=True)
class Place:
    """Where a job is measured.

    folder: the job's own, for what it needs to go on after a stop; it may hold what an earlier attempt left.
    data: a folder with the data sets (see `sets.py`), or None for the hub's. text: a folder of documents, or None for
    the installed Python documentation. should_stop: asked now and then; a job that is told so saves what it can go on
    from later, if anything, and raises `Interrupted` or `Stopped`.
    """

    folder: Path
    data: Path | None = None
    text: Path | None = None
    device: str = "auto"
    should_stop: Callable[[], bool] = never


class Experiment(ABC):
    """A table or a figure of the paper. Subclasses are final."""

    name: ClassVar[str]
    summary: ClassVar[str]

    @abstractmethod
    def jobs(self, size: str) -> list[Job]:
        """Every measurement of this size ("quick" or "full"), those that others are compared with first."""

    @abstractmethod
    def run(self, job: Job, place: Place) -> Row:
        """Measure one job. What it returns is kept beside the job's name and settings, so it need not repeat them."""

    @abstractmethod
    def write(self, rows: Sequence[Row], folder: Path) -> str:
        """Write figures (PNG and SVG) into `folder` and return the tables as Markdown.

        rows: what is measured so far, perhaps not all. A row is {"job": name, **settings, **result, "seconds": …,
        "threads": …, "torch": …, "device": …}.
        """


EXPERIMENTS: Registry[Experiment] = Registry("experiment")
