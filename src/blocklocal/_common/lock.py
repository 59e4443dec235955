"""Locks in the form of files: they go with the process that holds them, however it ends."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from filelock import BaseFileLock

LOCK = ".lock"  # in a folder that one at a time may write to


def locked(path: Path, patience: float = 0.0) -> BaseFileLock | None:
    """Take the lock of this file, which is made where it is not there.

    Args:
        path: of the file. Its folder must be there.
        patience: seconds to wait for another holder.

    Returns:
        The lock, which is held until its `release`; None where another holder, in this process or elsewhere, has it.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        lock.acquire(timeout=patience)
    except Timeout:
        return None
    return lock
