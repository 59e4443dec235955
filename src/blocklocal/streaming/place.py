"""The folder where a run's blocks rest: its checkpoints, which may lie elsewhere, behind a link."""

import shutil
from pathlib import Path

from blocklocal._common.errors import InputError
from blocklocal._common.lock import LOCK, locked

RAM = "ram"


def store_folder(store: str) -> Path | None:
    """The folder that a setting `store` names; None where it names none (the run's own), or host memory."""
    return None if store in ("", RAM) else Path(store)


def check_new_store(store: str) -> None:
    """Refuse a store for a new run that is not empty.

    Raises:
        InputError: something is there.
    """
    place = store_folder(store)
    if place is not None and place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise InputError(f"the store {place} holds something already: give a folder that is new or empty.")


def link_store(store: str, checkpoints: Path) -> None:
    """Let a new run's checkpoints lie in the store."""
    place = store_folder(store)
    if place is not None:
        place.mkdir(parents=True, exist_ok=True)
        checkpoints.symlink_to(place.resolve(), target_is_directory=True)


def clear_store(folder: Path) -> None:
    """Remove what one of several processes has let rest in a folder of its own.

    Raises:
        InputError: a network trains on what rests there.
    """
    if not folder.is_dir():
        return
    lock = locked(folder / LOCK)
    if lock is None:
        raise InputError(f"another network trains on the blocks in {folder}: let it end, or give another --store.")
    lock.release()
    shutil.rmtree(folder, ignore_errors=True)


def check_same_store(store: str, checkpoints: Path) -> None:
    """Refuse, for a run that goes on, another store than the run has.

    Raises:
        InputError: the run's checkpoints lie elsewhere.
    """
    place = store_folder(store)
    if place is not None and checkpoints.resolve() != place.resolve():
        raise InputError(
            f"the blocks of this run rest in {checkpoints.resolve()}: leave out --store, or move that folder, and let "
            f"{checkpoints} be a link to it."
        )
