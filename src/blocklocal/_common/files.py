"""Files: read where they are ordinary ones; written whole or not at all, or line by line."""

import os
import stat
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from blocklocal._common.errors import InputError

MIB = 2**20
MOST = 64 * MIB  # of a file, unless told otherwise
MOST_LINES = 4096 * MIB


def write_text(path: Path, text: str) -> None:
    """Write `text` (UTF-8) in the place of `path`: a kill or a full disk (OSError) leaves what was there before.

    Half a surrogate pair, which Python cannot write, becomes its escape, so that JSON stays the JSON it was.
    """
    draft = path.with_name(f".{path.name}.part")
    try:
        draft.write_bytes(text.encode("utf-8", "backslashreplace"))
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def cut_half_line(path: Path) -> None:
    """Remove a last line that a kill or a full disk has cut short: what is appended would be lost with it."""
    content = read_bytes(path, what="lines of JSON", most=MOST_LINES) if is_there(path) else b""
    if content and not content.endswith(b"\n"):
        with path.open("r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)


def is_there(path: Path) -> bool:
    """Whether anything is at the path, also a link to nowhere: a file that cannot be read is not a missing one."""
    return os.path.lexists(path)


def read_bytes(path: Path, *, what: str, most: int = MOST) -> bytes:
    """The content of a regular file of at most `most` bytes; `what` is expected in it."""
    with open_bytes(path, what=what, most=most) as (file, size):
        return file.read(size)


@contextmanager
def open_bytes(path: Path, *, what: str, most: int = MOST) -> Generator[tuple[BinaryIO, int]]:
    """(a regular file of at most `most` bytes, its size); `what` is expected in it.

    A pipe or a device is never opened: it could wait for ever, or never end.

    Raises:
        InputError: it is something else, too large, or cannot be read.
    """
    size = _checked_size(path, what, most)
    try:
        with path.open("rb") as file:
            yield file, size
    except OSError as error:
        raise _unreadable(path, what, error) from error


def _checked_size(path: Path, what: str, most: int) -> int:
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"{path} is missing. Expected {what}; check that the folder is the right one.") from error
    except OSError as error:
        raise _unreadable(path, what, error) from error
    except ValueError as error:  # a null character in the name
        raise InputError(f"{str(path)!r} is not the name of a file ({error}). Expected {what}.") from error
    if stat.S_ISDIR(status.st_mode):
        raise InputError(f"{path} is a folder. Expected a file: {what}.")
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path} is no ordinary file, but a pipe or a device. Expected {what}.")
    if status.st_size > most:
        raise InputError(f"{path} is larger than {most / MIB:,.0f} MiB. Expected {what}.")
    return status.st_size


def _unreadable(path: Path, what: str, error: OSError) -> InputError:
    return InputError(f"{path} cannot be read ({error.strerror or error}). Expected {what}.")
