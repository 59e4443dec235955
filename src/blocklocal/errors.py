"""Errors a user can act on, and the sentence that helps: what was given, what was expected, what to do."""

import errno
from collections.abc import Iterable
from difflib import get_close_matches


class InputError(ValueError):
    """Something the user gave cannot be used. The command line prints its message alone, without a traceback."""


def unknown(kind: str, given: object, known: Iterable[str]) -> InputError:
    """The error for a name that is not in a registry, with the nearest known name."""
    names = sorted(known)
    near = get_close_matches(str(given), names, n=1, cutoff=0.4)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return InputError(f"unknown {kind} {given!r}.{hint} Known: {', '.join(names)}.")


def check_positive(name: str, value: float, *, integer: bool = False) -> None:
    """Refuse zero, negative and non-finite numbers, and fractions where a count is meant."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    ok = whole if integer else (whole or isinstance(value, float)) and value < float("inf")
    if not ok or not value > 0:
        kind = "a whole number of at least 1" if integer else "a number above 0"
        raise InputError(f"{name} must be {kind}, not {value!r}.")


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
