"""`blocklocal trace`: the timeline of a run, for a trace viewer."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from blocklocal._common.errors import InputError
from blocklocal._common.written import check_target
from blocklocal.cli.arguments import parse
from blocklocal.report.save import picture_paths, save_named
from blocklocal.timeline.read import read_timeline
from blocklocal.timeline.trace import write_trace


@dataclass(frozen=True)
class TraceArguments:
    """Write the timeline of a run as a trace (JSON) for ui.perfetto.dev or chrome://tracing.

    Runs in several processes have a timeline, and runs with --visit.
    """

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder."""
    output: Path | None = None
    """File to write. Default: RUN/trace.json."""
    picture: Path | None = None
    """Also draw a few steps, as the report does: a name, for a PNG and an SVG."""
    overwrite: bool = False
    """With --output or --picture: replace a file that blocklocal did not write."""


def trace(arguments: list[str]) -> None:
    """Write the timeline of a run, for a trace viewer."""
    given = parse(TraceArguments, arguments, "blocklocal trace")
    for picture in picture_paths(given.picture) if given.picture is not None else ():
        check_target(picture, overwrite=given.overwrite)
    path, count = write_trace(given.run, given.output, overwrite=given.overwrite)
    print(f"{path}: {count} events (spans and arrows)")
    print(
        "open it at ui.perfetto.dev (drop the file there; it stays on this machine), or in Chrome at chrome://tracing"
    )
    if given.picture is not None:
        _draw(given.run, given.picture, given.overwrite)


def _draw(run: Path, picture: Path, overwrite: bool) -> None:
    from blocklocal.report.timeline_plot import timeline_figure

    timeline = read_timeline(run)
    figure = None if timeline is None else timeline_figure(timeline)
    if figure is None:
        raise InputError(f"no step of {run} was recorded by all its processes: train with --timeline 1 or more.")
    for path in save_named(figure, picture, overwrite=overwrite):
        print(path)
