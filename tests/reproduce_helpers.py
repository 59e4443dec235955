"""Jobs of milliseconds: Table 1 on a dozen pictures, and an experiment that only counts how often it is asked."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_files import parquet_set

from experiments.experiment import Experiment, Job, Place, Row
from experiments.table1 import METHODS, Table1

CHANGES: dict[str, Any] = {
    "width": 4,
    "validation": 0,
    "epochs": 2,
    "batch_size": 4,
    "tensorboard": False,
    "threads": 1,
}
TIMED = ("seconds", "images_per_second", "evaluation_seconds")


def image_sets(root: Path, size: tuple[int, int] = (6, 5)) -> Path:
    """A folder with three sets of 12 training and 6 test pictures, in the layout of the hub."""
    for name in ("mnist", "fashion_mnist", "cifar10_jpeg"):
        parquet_set(root / name)
    return root


def tiny_job(method: str = "evidence", name: str = "mnist", seed: int = 0, **changes: Any) -> Job:
    """An MLP of width 4 in 4 blocks, 2 epochs of 3 steps."""
    settings = {"set": name, "method": method, "model": "mlp", "seed": seed}
    return Job(f"{name}-mlp-{method}-seed{seed}", {**settings, "changes": {**METHODS[method], **CHANGES, **changes}})


def use_jobs(monkeypatch: Any, *jobs: Job) -> list[Job]:
    """Table 1 consists of these jobs."""
    monkeypatch.setattr(Table1, "jobs", lambda self, size: list(jobs))
    return list(jobs)


def timeless(rows: Sequence[Row]) -> list[Row]:
    """Rows without what no two runs share, by job."""
    kept = [{name: value for name, value in row.items() if name not in TIMED} for row in rows]
    return sorted(kept, key=lambda row: row["job"])


class Counting(Experiment):
    """Notes which jobs were run; a job whose settings say so stops as a user's Ctrl-C would, or diverges."""

    name, summary = "counting", "for tests"

    def __init__(self, *jobs: Job):
        self.listed, self.ran = list(jobs), []

    def jobs(self, size: str) -> list[Job]:
        return self.listed

    def run(self, job: Job, place: Place) -> Row:
        self.ran.append(job.name)
        action = job.settings.get("action")
        if action is not None:
            action(place)
        return {"value": job.settings["seed"]}

    def write(self, rows: Sequence[Row], folder: Path) -> str:
        return f"{len(rows)} rows\n"
