"""`blocklocal trace`: the timeline of a parallel run, for a trace viewer."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from blocklocal.cli.arguments import parse
from blocklocal.timeline.trace import write_trace


@dataclass(frozen=True)
class TraceArguments:
    """Write the timeline of a run in several processes as a trace (JSON) for ui.perfetto.dev or chrome://tracing."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder."""
    output: Path | None = None
    """File to write. Default: RUN/trace.json."""


def trace(arguments: list[str]) -> None:
    """Write the timeline of a run in several processes, for a trace viewer."""
    given = parse(TraceArguments, arguments, "blocklocal trace")
    path, count = write_trace(given.run, given.output)
    print(f"{path}: {count} events (spans and arrows)")
    print(
        "open it at ui.perfetto.dev (drop the file there; it stays on this machine), or in Chrome at chrome://tracing"
    )
