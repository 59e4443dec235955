"""`blocklocal diagnose`: what holds a run back, block by block, and what to try."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from blocklocal._common.ranges import COUNT, check_settings
from blocklocal.cli.arguments import parse


@dataclass(frozen=True)
class DiagnoseArguments:
    """Look into every block of a run and say what holds it back.

    Per block: the cosine between its gradient and backprop's; the size of its backward message; what its own loss and
    a linear probe read off its output, beside the untrained network and a backprop run; and how much of the image a
    linear map gets back from it. Of a text, figures are bits per byte. The test images are not looked at. Writes
    RUN/diagnosis.json and RUN/diagnosis.png.
    """

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder; the run need not be finished."""
    against: Path | None = None
    """Run to hold it against, of the same model and data, and cut the same way if it learned block by block. Default: a
    backprop run in the same folder."""
    images: int = 5000
    """Training images (of a text: windows) that probes are fitted on, and validation images that score them, at
    most."""
    batches: int = 8
    """Training batches over which gradients are compared."""
    checkpoint: str | None = None
    """A named checkpoint; default: the newest."""
    visit: int | None = None
    """Keep one block at a time in memory, with so many training batches in a row, as for `train`."""
    device: str = "auto"
    """auto, cpu or cuda."""
    trust: bool = False
    """Let the code of a model of its own, which a run or configuration names, run on this machine."""

    def __post_init__(self) -> None:
        check_settings(self, {"images": COUNT, "batches": COUNT})


def diagnose(arguments: list[str]) -> None:
    """What holds a run back, block by block, and what to try."""
    from blocklocal.diagnose import diagnose_run, write_diagnosis
    from blocklocal.diagnose.table import lines
    from blocklocal.diagnose.text import TextDiagnosis, text_lines

    given = parse(DiagnoseArguments, arguments, "blocklocal diagnose")
    diagnosis = diagnose_run(
        given.run,
        against=given.against,
        images=given.images,
        batches=given.batches,
        checkpoint=given.checkpoint,
        device=given.device,
        trust=given.trust,
        visit=given.visit,
        say=lambda line: print(line, flush=True),
    )
    said = text_lines(diagnosis) if isinstance(diagnosis, TextDiagnosis) else lines(diagnosis)
    print("\n".join(["", *said, ""]))
    for path in write_diagnosis(diagnosis, given.run):
        print(path)
