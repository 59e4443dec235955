"""What the stages know of their own blocks, brought together in the last one, which waits for nobody behind it.

Records of an epoch and pieces of a checkpoint are small texts in the run's store. An earlier stage leaves its piece and
goes on; the last stage, which is behind the others anyway, finds them there, and writes metrics and checkpoints.
"""

import errno
import json
import os
from collections.abc import Sequence
from math import isnan
from pathlib import Path
from typing import Any, TypedDict, TypeVar

from blocklocal._common.errors import InputError
from blocklocal.parallel.linked import Linked
from blocklocal.parallel.processes import Processes
from blocklocal.parallel.store import as_text, decode
from blocklocal.training.best import EarlyStopping
from blocklocal.training.callbacks import Callback, Record
from blocklocal.training.checkpoint_draft import Draft, Saved, describe
from blocklocal.training.loop import Trainer
from blocklocal.training.observers import check_finite, saves_now
from blocklocal.training.progress import NullProgress, Progress
from blocklocal.training.tally import merge

PER_BLOCK = ("loss", "parts", "message")
EpochPiece = dict[str, list[dict[str, int | float] | int | float | None]]
T = TypeVar("T")
GO_ON = "go on"


class CheckpointPiece(TypedDict):
    """A stage's tally, and what it has of every learner."""

    tally: dict[str, Any] | None
    units: list[dict[str, Any]]  # the name that the file has


class Relay:
    """Pieces of one thing after the other, named alike in all stages of the first replica."""

    def __init__(self, processes: Processes):
        self.processes, self.store = processes, processes.store

    def put(self, name: str, piece: Any) -> None:
        """This stage's piece."""
        self.store.set(f"piece/{name}/{self.processes.stage}", json.dumps(piece))

    def gather(self, name: str, kind: type[T]) -> list[T]:
        """The pieces of all earlier stages, in order, taken out of the store; they are of type `kind`."""
        keys = [f"piece/{name}/{stage}" for stage in range(self.processes.stage)]
        return [decode(piece, kind) for piece in self.take(keys)]

    def broadcast(self, name: str, word: str) -> None:
        """Something for every later stage."""
        for stage in range(self.processes.stage + 1, self.processes.stages):
            self.store.set(f"told/{name}/{stage}", word)

    def receive(self, name: str) -> str:
        """What an earlier stage has sent."""
        return as_text(self.take([f"told/{name}/{self.processes.stage}"])[0])

    def take(self, keys: Sequence[str], who: str = "earlier blocks") -> list[bytes]:
        """What others leave under these keys, taken out of the store."""
        seconds = self.processes.message_timeout
        said = self.processes.wait_for(keys, seconds, lambda _: f"{who} have said nothing for {seconds:.0f} s.")
        for key in keys:
            self.store.delete_key(key)
        return said


class Records(Callback):
    """Comes first among the observers: in the last stage, the records that the others see are those of all blocks."""

    def __init__(self, relay: Relay, stage: Linked):
        self.relay, self.stage = relay, stage

    def step(self, trainer: Trainer, losses: Sequence[float]) -> None:
        self.stage.edges.losses(losses)

    def epoch(self, trainer: Trainer, record: Record) -> None:
        self.stage.after_epoch(record["epoch"])
        if self.stage.processes.replica > 0:  # what is reported is of the first replica's part of the batches
            return
        names = [name for name in record if name in PER_BLOCK or name.startswith(("train_", "validation_"))]
        piece = {name: record[name] for name in names}
        if not self.stage.processes.last:
            self.relay.put(f"epoch {record['epoch']}", piece)
            return
        pieces = [*self.relay.gather(f"epoch {record['epoch']}", EpochPiece), piece]
        record.update({name: [value for piece in pieces for value in piece[name]] for name in names})


class SharedConsole(Callback):
    """The live table, with the losses of all blocks."""

    def __init__(self, stage: Linked, progress: Progress | NullProgress):
        self.stage, self.progress = stage, progress

    def step(self, trainer: Trainer, losses: Sequence[float]) -> None:
        known = self.stage.edges.losses(losses)
        if not any(map(isnan, known)):  # at the start, those of earlier blocks are not there yet
            self.progress.step(trainer.step, known)

    def epoch(self, trainer: Trainer, record: Record) -> None:
        self.progress.epoch(record)


class SharedEarlyStopping(EarlyStopping):
    """As `EarlyStopping`: after every epoch the process that has the records of all blocks decides, the others wait.

    Args:
        leads: whether this process decides.
    """

    def __init__(self, relay: Relay, patience: int, *, leads: bool):
        super().__init__(patience)
        self.relay, self.leads = relay, leads

    def epoch(self, trainer: Trainer, record: Record) -> None:
        processes, name = self.relay.processes, f"epoch {record['epoch']} was the last/"
        if not self.leads:
            reason = as_text(self.relay.take([f"{name}{processes.address.rank}"], "the last blocks")[0])
            if reason != GO_ON:
                trainer.stop(reason)
            return
        super().epoch(trainer, record)
        for rank in range(processes.address.size):
            if rank != processes.address.rank:
                self.relay.store.set(f"{name}{rank}", trainer.stopped or GO_ON)


class SharedCheckpoints(Callback):
    """As `training.observers.Checkpoints`: every stage writes its own blocks, the last one completes the checkpoint.

    Args:
        shared: whether replicas share the parameters.
    """

    def __init__(self, folder: Path, relay: Relay, every: int | None = None, *, shared: bool = False):
        self.folder, self.relay, self.every, self.shared = folder, relay, every, shared
        self._count, self._saved = 0, 0

    def start(self, trainer: Trainer) -> None:
        self._saved = trainer.step

    def save(self, trainer: Trainer) -> None:
        """Write this stage's part of a checkpoint.

        Raises:
            NotFinite: a weight is NaN or infinite; the last good checkpoint stays.
        """
        check_finite(trainer.network)
        if self.relay.processes.replica > 0:  # the first replica writes; the others have a part of what it writes
            for learner in trainer.network.learners if self.shared else ():
                Saved.of(learner)
            return
        self._count, self._saved = self._count + 1, trainer.step
        name, learners = f"checkpoint {self._count}", trainer.network.learners
        draft = self._open(name, trainer.step)
        trainer.network.each(draft.write)
        state, described = trainer.state(), [describe(learner) for learner in learners]
        if not self.relay.processes.last:
            self.relay.put(name, {"tally": state["tally"], "units": described})
            return
        pieces = self.relay.gather(name, CheckpointPiece)
        if state["tally"] is not None:
            before = [tally for piece in pieces if (tally := piece["tally"]) is not None]
            state["tally"] = merge([*before, state["tally"]])
        draft.complete(state, [one for piece in pieces for one in piece["units"]] + described)

    def _open(self, name: str, step: int) -> Draft:
        """The first stage chooses the name; it is the first to come here."""
        if self.relay.processes.first:
            draft = Draft.open(self.folder, step)
            self.relay.broadcast(name, draft.final.name)
            return draft
        draft = Draft(self.folder / self.relay.receive(name), step)
        if not self.folder.is_dir():  # the whole run has gone, and is not made again
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.folder))
        if not draft.partial.is_dir():
            raise InputError(
                f"process {self.relay.processes.address.rank} does not find {draft.partial}, which process 0 has made: "
                "all processes of a run must reach the run folder under the same path (a shared file system)."
            )
        return draft

    def step(self, trainer: Trainer, losses: Sequence[float]) -> None:
        if saves_now(trainer, self.every, self._saved):
            self.save(trainer)

    def epoch(self, trainer: Trainer, record: Record) -> None:
        self.save(trainer)
