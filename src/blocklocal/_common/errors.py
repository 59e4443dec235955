"""Errors a user can act on, and the sentence that helps: what was given, what was expected, what to do."""

import errno
import math
import shlex
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

from blocklocal._common.screen import printable

LONGEST = 60  # characters of a value that a message repeats


def shown(value: object) -> str:
    """A value as a message repeats it: short, and without control characters."""
    if isinstance(value, int) and value.bit_length() > 4 * LONGEST:  # Python refuses to write very long ones
        return f"a number of {int(value.bit_length() * math.log10(2)) + 1} digits"
    text = printable(repr(value))
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}… ({len(text)} characters)"


class InputError(ValueError):
    """Something the user gave cannot be used. The command line prints its message alone, without a traceback."""


class Interrupted(Exception):
    """A run was stopped by the user and saved; `folder` is where to go on, `remedy` how."""

    def __init__(self, folder: Path, remedy: str | None = None):
        how = remedy or f"blocklocal train --resume {shlex.quote(str(folder))}"
        super().__init__(f"stopped and saved. Go on with: {how}")
        self.folder = folder


def unknown(kind: str, given: object, known: Iterable[str]) -> InputError:
    """The error for a name that is not in a registry, with the nearest known name."""
    names = sorted(known)
    # None, also as the word that a shell or a JSON file has for it, stands for no name: it is near none but "none".
    near = get_close_matches(str(given), names, n=1, cutoff=0.7 if str(given) == "None" else 0.4)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return InputError(f"unknown {kind} {shown(given)}.{hint} Known: {', '.join(names)}.")


def first_line(error: BaseException) -> str:
    """What went wrong, without what torch writes below it (its stack); of an error without words, its kind."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def file_trouble(error: OSError) -> str:
    """A file that cannot be written (a full disk), or read: what it was, and what to do."""
    where = f" ({error.filename})" if error.filename else ""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{error.strerror or error}{where}."
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    remedy = "Free some space (or choose another --output)" if full else "Choose another --output"
    return (
        f"cannot write: {error.strerror}{where}. {remedy}; a run goes on from its last checkpoint with --resume, and "
        "`reproduce` with the same command."
    )


OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
TOO_LARGE = ("Storage size calculation overflowed", "integer multiplication overflow", "Overflow when unpacking long")


def number_trouble(error: BaseException) -> str | None:
    """Too little memory, or a number too large for the machine, in words; None for any other error.

    torch says both with a RuntimeError, which is told by its text.
    """
    text = str(error)
    if isinstance(error, MemoryError) or any(words in text for words in OUT_OF_MEMORY):
        said = next((line.strip() for line in text.splitlines() if "allocat" in line.lower()), "")
        return (
            f"there is not enough memory for this{f' ({said[:200]})' if said else ''}. Take a smaller --width, "
            "--batch-size, --image-size or --train-size, or a machine with more."
        )
    if isinstance(error, OverflowError) or any(words in text for words in TOO_LARGE):
        return f"a number is too large to work with ({text[:200]}): give a smaller one."
    return None
