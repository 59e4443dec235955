"""One process at a time trains a run: two that write the same files would spoil both."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from blocklocal._common.errors import InputError
from blocklocal._common.lock import LOCK, locked

PATIENCE = 1.0  # seconds for a process that has just ended to be gone


@contextmanager
def held(folder: Path) -> Generator[None]:
    """Keep everybody else from training the run in `folder`; the lock goes with this process, however that ends.

    Raises:
        InputError: another process has it.
    """
    lock = locked(folder / LOCK, PATIENCE)
    if lock is None:
        raise InputError(
            f"{folder} is being trained by another process: let that one end or stop it (it saves first), then go on."
        )
    try:
        yield
    finally:
        lock.release()
