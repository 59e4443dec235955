"""The checkpoints of a folder: which are complete, and how one is removed."""

import os
import shutil
from pathlib import Path

from blocklocal._common.errors import InputError
from blocklocal.training.checkpoint_files import STATE


def remove(path: Path) -> None:
    """Rename first: a half removed checkpoint must not look like a complete one."""
    leftover = path.rename(path.with_name(f".partial-{path.name}"))
    shutil.rmtree(leftover, ignore_errors=True)


def clear_leftovers(folder: Path) -> None:
    """Remove what a kill has left half written."""
    for leftover in folder.glob(".partial-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def list_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first; none where there is no such folder.

    Raises:
        InputError: the folder cannot be looked into, which is not the same as an empty one.
    """
    if not os.path.lexists(folder):
        return []
    if folder.is_symlink() and not folder.exists():
        raise InputError(
            f"the checkpoints in {folder} cannot be listed: it is a link to {os.readlink(folder)}, the store where the "
            "blocks of this run rest, which is not there. Put it back, or let the link lead to where it is now."
        )
    try:
        named = [path for path in folder.iterdir() if path.name.startswith("step-")]
        return sorted(path for path in named if (path / STATE).is_file())
    except OSError as error:
        raise InputError(
            f"the checkpoints in {folder} cannot be listed ({error.strerror or error}): make it a folder that can be "
            "read again."
        ) from error
