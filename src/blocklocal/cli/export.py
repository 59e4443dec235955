"""`blocklocal export`: a run's model for others."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from blocklocal._common.errors import InputError
from blocklocal.cli.arguments import parse

ProgramSetting = Literal["none", "torch", "onnx"]


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
    programs: ProgramSetting = "none"
    """Write a program per block instead (torch: of torch.export; or onnx), and a manifest of when a sample leaves; with
    --budget or --risk, after `blocklocal calibrate`."""
    budget: float | None = None
    """Of the programs: the share of the whole network's FLOPs that a sample may take in the mean (0.5)."""
    risk: float | None = None
    """Of the programs: the share of answers that may be others than the output's (0.01)."""
    trust: bool = False
    """Let the code of a model of its own, which a run or configuration names, run on this machine."""


def export(arguments: list[str]) -> None:
    """Write the trained model of a run as a folder for others, with a model card."""
    from blocklocal.runs.exits import export_run_programs
    from blocklocal.runs.export import export_run

    given = parse(ExportArguments, arguments, "blocklocal export")
    if given.programs != "none":
        how: dict[str, Any] = {
            "checkpoint": given.checkpoint,
            "trust": given.trust,
            "budget": given.budget,
            "risk": given.risk,
        }
        print(export_run_programs(given.run, given.to, given.programs, **how))
        return
    if given.budget is not None or given.risk is not None:
        raise InputError("--budget and --risk are for programs: give --programs torch or onnx too.")
    print(export_run(given.run, given.to, given.checkpoint, trust=given.trust))
