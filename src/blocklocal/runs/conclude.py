"""The end of a run: the result first, then what only shows it. Nothing that only shows may cost a result."""

import json
import logging
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from blocklocal._common.errors import first_line
from blocklocal._common.files import write_text
from blocklocal.data import ImageSet
from blocklocal.runs.build import RunContext
from blocklocal.runs.examples import choose_examples
from blocklocal.runs.looking import looking
from blocklocal.runs.origin import load_settings
from blocklocal.runs.saved import CONFUSION, SUMMARY
from blocklocal.runs.sets import normalise
from blocklocal.runs.summary import summarise
from blocklocal.training.loop import Trainer

log = logging.getLogger("blocklocal")

REPORT = "report.html"


def conclude(session: RunContext, folder: Path, trainer: Trainer) -> dict[str, Any]:
    """Evaluate once on the test split and write the result; then examples and report, as far as they succeed."""
    session = replace(session, config=load_settings(folder))  # as the user gave them, not as they are found here
    with looking(session.network):
        summary, confusion = summarise(session, trainer)
        write_text(folder / CONFUSION, json.dumps(confusion) + "\n")  # first: a run with a summary is finished
        write_text(folder / SUMMARY, json.dumps(summary, indent=2) + "\n")
        show(session, folder)
    return summary


def show(session: RunContext, folder: Path) -> None:
    """Write examples and report of a run whose result is there."""
    data = session.data
    if isinstance(data, ImageSet) and data.answers is None:
        with only_shows("the examples of the report", folder):
            examples = choose_examples(
                session.network, data, lambda pixels: normalise(pixels.to(session.device), session.facts)
            )
            write_text(folder / "examples.json", json.dumps(examples))
    with only_shows("the report", folder):
        from blocklocal.report import write_report

        write_report(folder)


@contextmanager
def only_shows(what: str, folder: Path) -> Generator[None]:
    """A failure in here is told to the user and costs nothing else: the result in `folder` is written already."""
    try:
        yield
    except Exception as error:  # plots and pages are made by several libraries, which fail in any way
        log.warning(
            "%s could not be written (%s: %s). The result is safe; `blocklocal report %s` writes the report again.",
            what,
            type(error).__name__,
            first_line(error),
            folder,
        )
