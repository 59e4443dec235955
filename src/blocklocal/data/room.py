"""Whether what is about to be read fits into memory."""

from blocklocal.errors import InputError
from blocklocal.limits import available_bytes


def check_room(size: int, what: str, remedy: str = "Use fewer images.") -> None:
    """Raise InputError where `size` bytes are more than this machine has left; `what` is what they are for."""
    there = available_bytes()
    if there is not None and size > there:
        raise InputError(f"{what} need {gibibytes(size)} of memory, but {gibibytes(there)} are left here. {remedy}")


def gibibytes(size: int) -> str:
    return f"{size / 2**30:,.1f} GiB"
