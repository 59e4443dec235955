"""`blocklocal export`: a run's model for others."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from blocklocal.cli.arguments import parse


@dataclass(frozen=True)
class ExportArguments:
    """Write the trained model of a run as a folder: safetensors, config.json, and a README.md with the measured table.

    It loads without blocklocal, and is ready for the Hugging Face hub.
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder."""
    to: Path
    """The folder to write: a new or empty one."""
    checkpoint: str | None = None
    """A named checkpoint; default: the best epoch where the run keeps it, else the newest."""
    trust: bool = False
    """Let the code of a model of its own, which a run or configuration names, run on this machine."""


def export(arguments: list[str]) -> None:
    """Write the trained model of a run as a folder for others, with a model card."""
    from blocklocal.runs.export import export_run

    given = parse(ExportArguments, arguments, "blocklocal export")
    print(export_run(given.run, given.to, given.checkpoint, trust=given.trust))
