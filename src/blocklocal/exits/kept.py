"""What `blocklocal calibrate` has fitted as the folder of a run keeps it; exits in `exits.json`."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from blocklocal._common.files import write_text
from blocklocal._common.written import signed_json
from blocklocal.exits.fitted import FittedExits
from blocklocal.schemas import read_json

EXITS = "exits.json"
T = TypeVar("T")


@dataclass(frozen=True)
class ExitExample:
    """A validation image that left early, or late.

    Attributes:
        png: in base64.
        label, said: the names of its class, and of the answer.
        block: where it left, counted from 1.
    """

    png: str
    label: str
    said: str
    block: int


@dataclass(frozen=True)
class RunExits:
    """As `exits.json` holds them.

    Attributes:
        checkpoint: the name of the one that they were fitted for.
        blocks: the names of the blocks.
        examples: of images, the surest of those that left first and those that left last, under the budget `budget`.
    """

    checkpoint: str
    exits: FittedExits
    blocks: tuple[str, ...] = ()
    examples: tuple[ExitExample, ...] = ()
    budget: float | None = None
    written_by: str = ""


def exits_of(run: Path) -> RunExits:
    """The content of `exits.json`.

    Raises:
        InputError: it is damaged.
    """
    return read_fitted(run / EXITS, RunExits)


def read_fitted(file: Path, kind: type[T]) -> T:
    """What `blocklocal calibrate` has written to a file of a run.

    Raises:
        InputError: it is damaged.
    """
    return read_json(file, kind, what=f"{file.stem}, as `blocklocal calibrate` writes them")


def save_fitted(file: Path, found: Any) -> None:
    """Write it, a dataclass."""
    write_text(file, signed_json(asdict(found), indent=1).decode())
