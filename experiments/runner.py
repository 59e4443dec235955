"""An experiment from beginning to end: which jobs are left, measure them, write tables and figures of what is there."""

import fnmatch
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from blocklocal._common.errors import InputError, unknown
from blocklocal._common.files import write_text
from blocklocal._common.ranges import THREADS, Range, check_settings
from blocklocal.runs.machine import find_device
from blocklocal.training.signals import StopSignals
from experiments.experiment import EXPERIMENTS, SIZES, Experiment, Job, Place, Row
from experiments.store import Store, to_json
from experiments.workers import Outcome, run_here, run_spread

MOST_JOBS = 8  # at a time, unless asked for more: each holds a data set in memory
RANGES = {"minutes": Range(0, 10**6, above=True), "jobs": THREADS, "threads": THREADS}


@dataclass(frozen=True)
class JobLaunch:
    """Where and how jobs run, but for the precision that a device brings with it nothing of what is measured."""

    device: str = "auto"
    """auto, cpu or cuda."""
    data: Path | None = None
    """Folder that holds the image sets (mnist, fashion_mnist, cifar10 …). Default: the Hugging Face hub."""
    text: Path | None = None
    """Folder of text files for the language model of figure3. Default: the installed Python documentation."""
    only: tuple[str, ...] = ()
    """A piece of the work: job names, how they begin (proxy), or patterns such as 'cifar10-*-seed1'."""
    minutes: float | None = None
    """After so many minutes no job is begun, and running ones stop (table1's and accuracy's save, and go on later)."""
    merge: tuple[Path, ...] = ()
    """Take over what was measured in other folders of the same experiment and size."""
    jobs: int | None = None
    """Jobs at a time. Default: one per core (1 on a GPU)."""
    threads: int = 1
    """CPU threads per job."""

    def __post_init__(self) -> None:
        check_settings(self, RANGES)

    @property
    def processes(self) -> int:
        """How many jobs run at a time."""
        if self.jobs is not None:
            return self.jobs
        return 1 if find_device(self.device).type == "cuda" else min(os.cpu_count() or 1, MOST_JOBS)


@dataclass(frozen=True)
class Report:
    """What there is after a call: rows of finished jobs, tables, jobs left to do, and jobs that diverged (why)."""

    rows: list[Row]
    markdown: str
    left: list[str]
    failed: dict[str, str]


def choose(experiment: str, size: str, only: Sequence[str] = ()) -> list[Job]:
    """The jobs of an experiment whose names fit one of the patterns, or begin with it; all without patterns."""
    if size not in SIZES:
        raise unknown("size", size, SIZES)
    jobs = EXPERIMENTS.get(experiment).jobs(size)
    fitting = {pattern: _fitting(pattern, [job.name for job in jobs]) for pattern in only}
    lost = [pattern for pattern, names in fitting.items() if not names]
    if lost:
        groups = dict.fromkeys(job.name.partition("-")[0] for job in jobs)
        raise InputError(
            f"no job of {experiment} at size {size} is called {' or '.join(lost)}; there are {len(jobs)}, such as "
            f"{jobs[0].name}, and their names begin with {', '.join(groups)}. List them with: "
            f"blocklocal reproduce {experiment} --size {size} --list."
        )
    return [job for job in jobs if not only or any(job.name in names for names in fitting.values())]


def _fitting(pattern: str, names: Sequence[str]) -> list[str]:
    """The names that a pattern fits; where it fits none, those that begin with it and a hyphen."""
    return fnmatch.filter(names, pattern) or [name for name in names if name.startswith(f"{pattern}-")]


def reproduce(
    experiment: str, size: str, folder: Path, launch: JobLaunch | None = None, say: Callable[[str], None] = print
) -> Report:
    """Measure what is not yet measured of an experiment and write its tables and figures into `folder`.

    say: is told of every job. The same call goes on where an earlier one was stopped. Raises InputError for unknown
    names, for a folder of something else, and for rows measured with other settings.
    """
    launch = launch or JobLaunch()
    chosen = choose(experiment, size, launch.only)
    everything = choose(experiment, size)
    store = Store(folder, experiment, size)
    store.open()
    for other in launch.merge:
        say(f"{store.merge(other, everything)} jobs taken over from {other}")
    todo = [job for job in chosen if store.row(job) is None]
    say(f"{experiment}, {size}: {len(chosen) - len(todo)} of {len(chosen)} jobs are there already")
    failed = _measure(store, todo, launch, say) if todo else {}
    rows = store.rows(everything)
    markdown = write_results(EXPERIMENTS.get(experiment), rows, folder)
    done = {row["job"] for row in rows}
    return Report(rows, markdown, [job.name for job in chosen if job.name not in done], failed)


def _measure(store: Store, todo: Sequence[Job], launch: JobLaunch, say: Callable[[str], None]) -> dict[str, str]:
    """Run the jobs and keep their rows; returns those that diverged."""
    work = [(job, Place(store.job_folder(job), launch.data, launch.text, launch.device)) for job in todo]
    deadline = time.monotonic() + 60 * launch.minutes if launch.minutes else float("inf")
    failed: dict[str, str] = {}
    with StopSignals() as signals:

        def should_stop() -> bool:
            return signals.asked or time.monotonic() >= deadline

        for count, outcome in enumerate(_outcomes(store.experiment, work, launch, should_stop), 1):
            if outcome.row is not None:
                store.keep(outcome.job, outcome.row)
            if outcome.failed:
                failed[outcome.job.name] = outcome.failed
            say(_line(count, len(todo), outcome))
    return failed


def _outcomes(experiment: str, work: list, launch: JobLaunch, should_stop: Callable[[], bool]):
    processes = min(launch.processes, len(work))
    if processes == 1:
        return run_here(experiment, work, launch.threads, should_stop)
    return run_spread(experiment, work, launch.threads, should_stop, processes)


def _line(count: int, total: int, outcome: Outcome) -> str:
    if outcome.row is not None:
        what = f"{outcome.row['seconds']:.0f} s"
    else:
        what = f"failed: {outcome.failed}" if outcome.failed else "stopped"
    return f"[{count}/{total}] {outcome.job.name}: {what}"


def write_results(experiment: Experiment, rows: Sequence[Row], folder: Path) -> str:
    """Tables and figures of these rows, into `folder`; returns the tables as Markdown."""
    if not rows:
        return ""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "results.json", "[" + ",\n".join(map(to_json, rows)) + "]\n")
    markdown = experiment.write(rows, folder)
    write_text(folder / "results.md", markdown)
    return markdown
