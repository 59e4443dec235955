"""Runs of an experiment, which are trained once."""

import shutil
from pathlib import Path

from blocklocal.runs.config import Config
from blocklocal.runs.facts import AnySet
from blocklocal.runs.run import start_run
from blocklocal.runs.saved import SUMMARY


def train_run(config: Config, folder: Path, data: AnySet | None = None) -> None:
    """Train a run, unless it is there and finished.

    Args:
        data: in the place of what the configuration names.
    """
    if not (folder / SUMMARY).is_file():
        shutil.rmtree(folder, ignore_errors=True)  # what was stopped begins again
        start_run(config, folder, quiet=True, data=data)
