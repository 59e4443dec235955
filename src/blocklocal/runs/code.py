"""The code of a user's own model: a run keeps a copy, and nobody else's is run unless the user says so.

A run that was trained with `--model net.py:net` names code. Whoever opens the run folder would run it. So a run keeps
the files (`RUN/model/`) with their digests, and what opens a run asks for trust first.
"""

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from blocklocal._common.errors import InputError
from blocklocal.models.file import file_of, is_reference, sources

FOLDER = "model"


@dataclass(frozen=True)
class Code:
    """The files of a model.

    Attributes:
        file: the one that is named, relative to the folder.
        source: where that folder was.
        digests: relative name → SHA-256 of every file, those that it imports from beside it included.
    """

    file: str
    source: str
    digests: Mapping[str, str]

    def __post_init__(self) -> None:
        if self.file not in self.digests:
            raise InputError(f"the file {self.file!r} of a model must be one of those whose SHA-256 is known.")


def keep_code(folder: Path, model: str) -> Code | None:
    """Copy the files of a `file.py:function` into the run folder; None for a model of the library.

    Call it after the model was built, so that what it imports is known.
    """
    if not is_reference(model):
        return None
    file = file_of(model).resolve()
    digests = {}
    for path in sources(model):
        name = path.relative_to(file.parent).as_posix()
        copy = folder / FOLDER / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
        digests[name] = digest(copy)
    return Code(file.name, str(file.parent), digests)


def own_model(folder: Path, model: str, code: Code | None, *, trust: bool) -> str:
    """The model that a run is opened with: its own copy of `file.py:function`, where it has one.

    Raises:
        InputError: that would run code that the user has not said to trust, or that has changed.
    """
    if not is_reference(model):
        return model
    function = model.rpartition(":")[2]
    if code is None and (folder / FOLDER).exists():
        raise InputError(f"{folder / FOLDER} holds code, and no origin.json says what it was: put origin.json back.")
    file = file_of(model) if code is None else _checked(folder, code)
    if not trust:
        sums = [] if code is None else [f"{name}, SHA-256 {known[:16]}…" for name, known in code.digests.items()]
        what = f"{file}" if code is None else f"{file.parent} ({'; '.join(sums)})"
        raise InputError(
            f"{folder} was trained with a model of its own: to open it, the code in {what} must run on this machine. "
            "Look at it, and give --trust (in Python trust=True) if you want that."
        )
    return f"{file}:{function}"


def check_same_code(folder: Path, model: str, code: Code | None) -> None:
    """Raise InputError where the user's own `model` is not the code that a run in `folder` was trained with."""
    if code is None or not is_reference(model):
        return
    file = file_of(model)
    for name, known in code.digests.items():
        path = file.parent / name
        if not path.is_file() or digest(path) != known:
            raise InputError(
                f"{path} is not the file that {folder} was trained with; that one is {folder / FOLDER / name}. Put it "
                "back, or choose another --output."
            )


def _checked(folder: Path, code: Code) -> Path:
    """The run's copy of the file, all copies being what they were, and nothing beside them that could be imported."""
    known_files = {PurePosixPath(name) for name in code.digests}
    known_folders = {parent for name in known_files for parent in name.parents}
    for path in sorted((folder / FOLDER).rglob("*")):
        name = PurePosixPath(path.relative_to(folder / FOLDER).as_posix())
        if path.is_symlink() or name not in (known_folders if path.is_dir() else known_files):
            raise InputError(f"{path} is none of the files that the run was trained with: look at it, and remove it.")
    for name, known in code.digests.items():
        path = folder / FOLDER / name
        inside = not PurePosixPath(name).is_absolute() and ".." not in PurePosixPath(name).parts
        if not inside or not path.is_file() or digest(path) != known:
            raise InputError(
                f"{path} is not the file that the run was trained with (it is missing, or its SHA-256 is not "
                f"{known[:16]}…). Put the file back; the weights belong to it."
            )
    return folder / FOLDER / code.file


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.sha256(file.read()).hexdigest()
