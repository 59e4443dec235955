"""The best epoch so far: when to stop because no better one comes, and how its weights are kept."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blocklocal._common.errors import InputError, shown
from blocklocal._common.measures import main_of
from blocklocal._common.ranges import FROM_ONE, check_range
from blocklocal.training.callbacks import Callback, Record
from blocklocal.training.checkpoint import save_checkpoint
from blocklocal.training.checkpoint_draft import adopt
from blocklocal.training.checkpoint_folder import clear_leftovers, list_checkpoints, remove

if TYPE_CHECKING:
    from blocklocal.training.loop import Trainer

Score = Callable[[Record], Any]
"""From an epoch's record to a number that is larger for a better epoch."""


def validation_score(record: Record) -> float:
    """The main measure of the output, accuracy in percent; of errors their negative.

    Raises:
        InputError: there was no validation.
    """
    main = main_of([record])
    value = record.get(f"validation_{main.name}", [None])[-1]
    if value is None:
        raise InputError(
            "the best epoch is the one with the best validation, and there is none: give fit a validation loader "
            "(--validation), or a score= of your own, a function of an epoch's record."
        )
    return value if main.higher else -value


def best_epoch(records: Sequence[Record], score: Score = validation_score) -> int:
    """The place of the best record, from 0; of equal ones the first.

    Raises:
        InputError: a score is no number.
    """
    scores = [score(record) for record in records]
    for value in scores:
        if not isinstance(value, int | float):
            raise InputError(f"score must give a number for an epoch's record, not {shown(value)}.")
    return max(range(len(scores)), key=lambda k: scores[k])


def out_of_patience(
    records: Sequence[Record], patience: int, first: int = 0, score: Score = validation_score
) -> str | None:
    """Why training ends before its last epoch; None where it goes on.

    Args:
        records: of all epochs so far.
        patience: epochs without a better one.
        first: the epoch, from 0, in which the present schedule began: epochs before it are not waited for.
    """
    if len(records) - first < patience:
        return None
    best = best_epoch(records, score)
    if len(records) - max(best + 1, first) < patience:
        return None
    return f"no epoch was better than epoch {best + 1} for {patience} epochs"


class EarlyStopping(Callback):
    """Ends the training where so many epochs in a row were not better than the best one before.

        trainer = Trainer(network, epochs=50, callbacks=[EarlyStopping(patience=3)])
        records = trainer.fit(train, validation)      # of the epochs that were trained
        trainer.stopped                               # why it ended before the last epoch; None where it did not

    Args:
        patience: epochs.
        score: from an epoch's record to a number, larger for better; default: of the validation of the output.

    Raises:
        InputError: patience is below 1.
    """

    def __init__(self, patience: int, *, score: Score = validation_score):
        check_range("patience", patience, FROM_ONE)
        self.patience, self.score = patience, score

    def start(self, trainer: "Trainer") -> None:
        self._look(trainer)

    def epoch(self, trainer: "Trainer", record: Record) -> None:
        self._look(trainer)

    def _look(self, trainer: "Trainer") -> None:
        reason = out_of_patience(trainer.records, self.patience, trainer.first_epoch, self.score)
        if reason is not None:
            trainer.stop(reason)


class KeepBest(Callback):
    """Keeps the weights of the best epoch in a folder, from which `load` reads them.

        Trainer(network, epochs=50, callbacks=[KeepBest("best")]).fit(train, validation)
        load(network, "best", optimizers=False)

    Training that goes on (`save`, `load`) keeps on comparing, where it is given the same folder.

    Args:
        folder: a new one, or that of the same training.
        score: from an epoch's record to a number, larger for better; default: of the validation of the output.
        newest: where checkpoints are written before (by a run); the newest one is linked instead of written again.
    """

    def __init__(self, folder: Path | str, *, score: Score = validation_score, newest: Path | None = None):
        self.folder, self.score, self.newest = Path(folder), score, newest
        self._first = 0  # the first epoch that counts

    def start(self, trainer: "Trainer") -> None:
        if not trainer.records:
            return
        best = best_epoch(trainer.records, self.score)
        if not self._is_kept(trainer.records[best]):
            if best == len(trainer.records) - 1:
                self._keep(trainer)
            else:  # the user went back to an older checkpoint, or has moved the folder
                self._first = len(trainer.records)

    def epoch(self, trainer: "Trainer", record: Record) -> None:
        since = trainer.records[self._first :]
        if best_epoch(since, self.score) == len(since) - 1:
            self._keep(trainer)

    def _is_kept(self, record: Record) -> bool:
        kept = list_checkpoints(self.folder)
        return bool(kept) and kept[-1].name.partition(".")[0] == f"step-{record['step']:08d}"

    def _keep(self, trainer: "Trainer") -> None:
        before = list_checkpoints(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        clear_leftovers(self.folder)
        if self.newest is None:
            state = {**trainer.state(), "network_epoch": trainer.network.epoch}
            kept = save_checkpoint(self.folder, trainer.network, state)
        else:
            kept = adopt(list_checkpoints(self.newest)[-1], trainer.step, self.folder)
        for path in before:
            if path.exists() and path != kept:
                remove(path)
