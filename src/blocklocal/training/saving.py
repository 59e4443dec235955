"""A network with its optimisers in a folder, without a run: `save` and `load`."""

from pathlib import Path

from blocklocal._common.errors import InputError
from blocklocal._common.lock import LOCK, locked
from blocklocal.network.neighbours import Neighbours
from blocklocal.training.advice import OF_SAVED
from blocklocal.training.checkpoint import list_checkpoints, load_checkpoint, save_checkpoint


def save(network: Neighbours, folder: Path | str) -> Path:
    """Write weights, optimisers, schedules, steps and epoch of a network, and torch's random state.

    It is written beside what was saved there before, and takes its place when it is complete: a kill or a full disk
    leaves the older one.

    Args:
        network: one that knows its shapes.
        folder: a new folder, or one that `save` has written.

    Returns:
        The path of what was saved, a folder of safetensors and JSON below `folder`.

    Raises:
        InputError: the network does not know its shapes yet, or the folder holds other things.
        OSError: it cannot be written.
    """
    place = Path(folder)
    if not network.learners:
        raise InputError("a network must know its shapes before it is saved: give BlockLocal example=, a batch [B, …].")
    if place.exists() and (not place.is_dir() or (any(place.iterdir()) and not list_checkpoints(place))):
        raise InputError(f"{place} holds other things: give a new folder, or one that blocklocal.save has written.")
    place.parent.mkdir(parents=True, exist_ok=True)
    if (place / LOCK).exists():
        lock = locked(place / LOCK)
        if lock is None:
            raise InputError(f"a streamed network trains on the blocks in {place}: give another folder.")
        lock.release()
    return save_checkpoint(place, network, {"step": network.steps, "network_epoch": network.epoch})


def load(network: Neighbours, folder: Path | str, *, optimizers: bool = True) -> None:
    """Load what `save` has written into a network of the same cut and settings.

        load(network, folder, optimizers=False)               # to predict, or to train anew from these weights
        network.configure(sgd(), "one-cycle", epochs * len(train))
        load(network, folder)                                 # to go on: as a Trainer with sgd() had configured it

    Args:
        network: made like the saved one, with its shapes known; for its optimisers, configured alike (`configure`).
        folder: what was given to `save`.
        optimizers: whether to load optimisers, schedules and torch's random state too; else the network keeps its own.

    Raises:
        InputError: nothing is saved there, it is damaged, it is of another network, or its optimisers are configured
            otherwise. Nothing is loaded then.
    """
    found = list_checkpoints(Path(folder)) if Path(folder).is_dir() else []
    if not found:
        raise InputError(f"no network is saved in {folder}: give the folder that was given to blocklocal.save.")
    if not network.learners:
        raise InputError(
            "a network must know its shapes before it is loaded: give BlockLocal example=, a batch [B, …]."
        )
    state = load_checkpoint(found[-1], network, optimizers=optimizers, advice=OF_SAVED)
    network.epoch = state.get("network_epoch", state.get("epoch", network.epoch))
