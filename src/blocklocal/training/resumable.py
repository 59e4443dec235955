"""Where training stands: what is saved of it, and how it goes on from there."""

from typing import Any, NamedTuple

from blocklocal._common.errors import InputError
from blocklocal.block.optim import Optimizer
from blocklocal.block.schedules import Schedule
from blocklocal.network.neighbours import Neighbours
from blocklocal.training.callbacks import Record
from blocklocal.training.feed import Feed
from blocklocal.training.tally import Tally


class Start(NamedTuple):
    """What an epoch's record needs from its first step, also when the epoch is resumed in the middle."""

    lr: float | None
    seconds: float
    images: int


class Resumable:
    """A training that can be saved and gone on with, also in mid-epoch.

    Attributes:
        network: what is trained.
        epoch, step_in_epoch: the epoch in progress, and its steps so far.
        tally: of the epoch in progress; None between two.
        records: of the epochs that are over.
        seconds: of training alone, without evaluation.
        images: samples that were trained on.
        steps_per_epoch: batches of the training loader; None before `prepare`.
    """

    def __init__(self, network: Neighbours, optimizer: Optimizer, schedule: Schedule, first_epoch: int):
        self.network, self.optimizer, self.schedule, self.first_epoch = network, optimizer, schedule, first_epoch
        self.epoch, self.step_in_epoch = 0, 0
        self.tally: Tally | None = None
        self.records: list[Record] = []
        self.seconds = 0.0
        self.images = 0
        self.steps_per_epoch: int | None = None
        self._feed = Feed()
        self._start: Start | None = None  # of the epoch in progress
        self._prepared = False

    @property
    def step(self) -> int:
        """Training steps taken so far."""
        return self.network.steps

    def state(self) -> dict[str, Any]:
        """Where training stands (JSON-able), for a checkpoint beside the network's weights and optimisers."""
        return {
            "step": self.step,
            "epoch": self.epoch,
            "step_in_epoch": self.step_in_epoch,
            "steps_per_epoch": self.steps_per_epoch,
            "seconds": self.seconds,
            "images": self.images,
            "tally": self.tally.state() if self.tally else None,
            "start": self._start,
            "records": self.records,
            **self._feed.state(self.step_in_epoch),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a saved `state`; the network (and its optimisers, after `prepare`) must have been loaded.

        An optimiser or a schedule that a function makes is not in the state: give the new trainer the same function.

        Args:
            state: what `state()` gave.

        Raises:
            InputError: epochs have another number of steps than those of the saved run.
        """
        self.check(state)
        self.epoch, self.step_in_epoch = state["epoch"], state["step_in_epoch"]
        self.seconds, self.images = state["seconds"], state["images"]
        self.records = list(state["records"])
        self._feed.restore(state.get("loader"))
        if state["tally"]:
            self._start = Start(*state["start"])
            self.tally = self._new_tally()
            self.tally.load(state["tally"], self.network.device)
        if self._prepared and self.epoch == self.first_epoch > 0 and not self.step_in_epoch:
            self.network.begin_schedules(self.optimizer, self.schedule)

    def check(self, state: dict[str, Any]) -> None:
        """Whether `restore` can go on from a saved state; nothing is changed.

        Args:
            state: what `state()` gave.

        Raises:
            InputError: it cannot.
        """
        if "epoch" not in state:
            raise InputError("the checkpoint is of a network alone, without a position in training: train anew.")
        before = state.get("steps_per_epoch")
        if None not in (before, self.steps_per_epoch) and before != self.steps_per_epoch:
            raise InputError(
                f"the checkpoint is of a run with {before} steps per epoch, and here there are {self.steps_per_epoch}: "
                "give the same batches, and as many replicas."
            )
        if state["epoch"] < self.first_epoch:
            raise InputError(
                f"the checkpoint is of epoch {state['epoch'] + 1}, before epochs were added after epoch "
                f"{self.first_epoch}: its schedule has ended. Give a later checkpoint, or train anew."
            )

    def _new_tally(self) -> Tally:
        learners = self.network.learners
        return Tally(len(learners), self.network.targets, first=learners[0].index)
