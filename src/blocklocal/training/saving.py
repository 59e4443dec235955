"""A network with its optimisers, and where its trainer stands, in a folder, without a run: `save` and `load`."""

from pathlib import Path

from blocklocal._common.errors import InputError
from blocklocal._common.lock import LOCK, locked
from blocklocal.network.neighbours import Neighbours, check_network
from blocklocal.training.advice import OF_SAVED
from blocklocal.training.checkpoint import load_checkpoint, open_files, save_checkpoint
from blocklocal.training.checkpoint_folder import list_checkpoints
from blocklocal.training.loop import Trainer


def save(network: Neighbours, folder: Path | str, *, trainer: Trainer | None = None) -> Path:
    """Write weights, optimisers, schedules, steps and epoch of a network, and torch's random state.

    It is written beside what was saved there before, and takes its place when it is complete: a kill or a full disk
    leaves the older one.

    Args:
        network: one that knows its shapes.
        folder: a new folder, or one that `save` has written.
        trainer: the network's, to keep where it stands too: epoch, step in it, records.

    Returns:
        The path of what was saved, a folder of safetensors and JSON below `folder`.

    Raises:
        InputError: the network does not know its shapes yet, the trainer trains another one, or the folder holds other
            things.
        OSError: it cannot be written.
    """
    check_network(network)
    network.check_trainable()
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
    _check_own(network, trainer)
    state = {"step": network.steps} if trainer is None else trainer.state()
    return save_checkpoint(place, network, {**state, "network_epoch": network.epoch})


def load(network: Neighbours, folder: Path | str, *, optimizers: bool = True, trainer: Trainer | None = None) -> None:
    """As `blocklocal.load` of a network: load what `save` has written into one of the same cut and settings."""
    check_network(network)
    found = list_checkpoints(Path(folder)) if Path(folder).is_dir() else []
    if not found:
        raise InputError(f"no network is saved in {folder}: give the folder that was given to blocklocal.save.")
    if not network.learners:
        raise InputError(
            "a network must know its shapes before it is loaded: give BlockLocal example=, a batch [B, …]."
        )
    if trainer is not None:
        _check_own(network, trainer)
        _check_goes_on(trainer, found[-1], optimizers)
    state = load_checkpoint(found[-1], network, optimizers=optimizers, advice=OF_SAVED)
    network.epoch = state.get("network_epoch", state.get("epoch", network.epoch))
    if trainer is not None:
        trainer.restore(state)


def _check_own(network: Neighbours, trainer: Trainer | None) -> None:
    if trainer is not None and trainer.network is not network:
        raise InputError("the trainer trains another network: give its own, trainer.network.")


def _check_goes_on(trainer: Trainer, saved: Path, optimizers: bool) -> None:
    """Raise InputError where a trainer cannot go on from what is saved."""
    if not optimizers:
        raise InputError("a trainer goes on with the optimisers that were saved: leave out optimizers=False.")
    if trainer.steps_per_epoch is None:
        raise InputError("the trainer has no optimisers yet: call trainer.prepare(train), with its loader, before.")
    state, _ = open_files(saved, OF_SAVED).state()
    if "epoch" not in state:
        raise InputError(
            f"{saved} is of a network alone, and does not say where a trainer stood: save it with "
            "blocklocal.save(network, folder, trainer=trainer). To load it without, leave out trainer=."
        )
    trainer.check(state)
