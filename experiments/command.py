"""The command: one of the paper's experiments, its figures beside ours, or accuracy beside backprop's."""

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from blocklocal._common.errors import InputError, Interrupted
from blocklocal.cli.arguments import parse
from experiments.runner import JobLaunch, choose
from experiments.runner import reproduce as run_experiment
from experiments.store import Store


@dataclass(frozen=True)
class ReproduceArguments:
    """Re-make table1, figure2 or figure3 of the paper, or measure accuracy beside backprop's.

    The same command again goes on where it was stopped.
    """

    experiment: Annotated[str, tyro.conf.Positional]
    """table1, figure2, figure3 or accuracy."""
    size: str = "quick"
    """quick (minutes on a CPU) or full (real widths and 3 seeds, for a GPU)."""
    launch: JobLaunch = field(default_factory=JobLaunch)
    output: Path | None = None
    """Folder of tables, figures and finished jobs. Default: runs/EXPERIMENT-SIZE."""
    list: bool = False
    """Only list the jobs and which of them are done."""


def reproduce(arguments: list[str]) -> None:
    """Re-make table1, figure2 or figure3 of the paper, or measure accuracy beside backprop's."""
    given = parse(ReproduceArguments, arguments, "blocklocal reproduce")
    folder = given.output or Path("runs") / f"{given.experiment}-{given.size}"
    if given.list:
        _list(given, folder)
        return
    report = run_experiment(
        given.experiment, given.size, folder, given.launch, say=lambda line: print(line, flush=True)
    )
    if report.rows:
        print(f"\n{report.markdown}\ntables and figures: {folder}")
    if report.failed:
        names = "; ".join(f"{name}: {why}" for name, why in report.failed.items())
        raise InputError(f"{len(report.failed)} jobs diverged and have no row ({len(report.left)} are left): {names}")
    if report.left:
        raise Interrupted(folder, f"the same command ({len(report.left)} jobs left): {_again(arguments)}")


def _list(given: ReproduceArguments, folder: Path) -> None:
    store = Store(folder, given.experiment, given.size)
    for job in choose(given.experiment, given.size, given.launch.only):
        print(f"{'done' if store.row(job) is not None else '    '}  {job.name}")


def _again(arguments: list[str]) -> str:
    return shlex.join(["blocklocal", "reproduce", *arguments])
