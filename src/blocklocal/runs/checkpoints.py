"""Which checkpoint of a run is meant: to look at, or to go on from."""

from pathlib import Path

from blocklocal._common.errors import InputError
from blocklocal._common.files import is_there
from blocklocal.runs.saved import SUMMARY
from blocklocal.training.checkpoint_folder import list_checkpoints
from blocklocal.training.observers import MetricsFile

CHECKPOINTS, METRICS, TIMELINE, BEST = "checkpoints", "metrics.jsonl", "timeline", "best"  # in a run's folder


def best_of(folder: Path) -> Path | None:
    """The checkpoint of the best epoch of the run in `folder`, where it keeps one."""
    kept = list_checkpoints(folder / BEST)
    return kept[-1] if kept else None


def find_checkpoint(folder: Path, name: str | None = None, *, required: bool = True) -> Path | None:
    """The newest complete checkpoint of a run, or the one called `name`. Refuses where a `required` one is missing."""
    known = list_checkpoints(folder / CHECKPOINTS)
    if name is not None:
        chosen = [path for path in known if path.name == name]
        if not chosen:
            names = ", ".join(path.name for path in known) or "none"
            raise InputError(f"{folder} has no checkpoint {name!r}. There: {names}.")
        return chosen[0]
    if not known and required:
        raise (
            _lost(folder)
            if has_trained(folder)
            else InputError(
                f"{folder} holds no complete checkpoint: train it first (blocklocal train --resume {folder})."
            )
        )
    return known[-1] if known else None


def checkpoint_to_look(folder: Path, name: str | None = None) -> Path:
    """The checkpoint that is evaluated and predicts: the one called `name`, that of the best epoch, or the newest."""
    best = best_of(folder)
    if best is not None and name in (None, BEST, best.name):
        return best
    path = find_checkpoint(folder, name)
    assert path is not None
    return path


def check_fitted_for(folder: Path, fitted: str, name: str | None, what: str) -> None:
    """Look whether what was fitted for one checkpoint is used with it.

    Args:
        fitted: the name of the checkpoint.
        name: of the one that is used; None for the one that predicts.
        what: was fitted.

    Raises:
        InputError: it is another one.
    """
    now = checkpoint_to_look(folder, name).name
    if fitted != now:
        raise InputError(
            f"the {what} of {folder} were fitted for {fitted}, and {now} is used now: calibrate it again, or give "
            f"--checkpoint {fitted}."
        )


def checkpoint_to_resume(folder: Path, name: str | None = None) -> Path | None:
    """The checkpoint that a run goes on from; None where it was stopped before its first one, and begins anew.

    Raises:
        InputError: the run has had checkpoints, and they are gone.
    """
    path = find_checkpoint(folder, name, required=False)
    if path is None and has_trained(folder):
        raise _lost(folder)
    return path


def has_trained(folder: Path) -> bool:
    """Whether a run has had a checkpoint: it has a result, or has written down epochs.

    An epoch is written down just before its checkpoint: where the first one could not be written (a full disk), the
    folder of checkpoints is there and empty.
    """
    if is_there(folder / SUMMARY):
        return True
    epochs = MetricsFile.epochs(folder / METRICS)
    return epochs > 1 or (epochs == 1 and not is_there(folder / CHECKPOINTS))


def _lost(folder: Path) -> InputError:
    return InputError(
        f"the run {folder} has been trained, and {folder / CHECKPOINTS} holds no complete checkpoint of it: its "
        "weights are gone. Put that folder back; or train anew, with the same settings, into another folder: "
        f"blocklocal train --config {folder / 'config.json'} --output FOLDER."
    )
