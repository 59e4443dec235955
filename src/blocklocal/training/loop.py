"""The training loop: epochs over batches, one network step per batch, records per epoch."""

import logging
import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import NamedTuple

from torch import Tensor

from blocklocal._common.errors import InputError, shown
from blocklocal._common.message import map_message
from blocklocal._common.modes import kept_modes
from blocklocal._common.ranges import FROM_ONE, check_range, whole
from blocklocal.block.factories import OptimizerFactory
from blocklocal.block.optim import Optimizer, as_optimizer
from blocklocal.block.schedules import Schedule, as_schedule
from blocklocal.network.edge import XY, Loaded, pair
from blocklocal.network.neighbours import Neighbours, Stepped, check_network
from blocklocal.training.callbacks import Callback, Record, check_callbacks, running
from blocklocal.training.evaluation import measure_blocks
from blocklocal.training.loaders import Loader, check_loader, first_batch, nothing_came, steps_of
from blocklocal.training.metrics import Metrics, check_metrics
from blocklocal.training.notebook import Shown, in_notebook
from blocklocal.training.resumable import Resumable, Start
from blocklocal.training.tally import NotFinite, Tally

logger = logging.getLogger("blocklocal")
CHECK_EVERY = 20


class _Committed(NamedTuple):
    """Where training stood when its last steps were committed."""

    step: int
    step_in_epoch: int
    images: int
    seconds: float
    tally: Tally | None


class Stopped(Exception):
    """The user asked to stop; the step was finished and `Trainer.state` is where to go on."""


class Trainer(Resumable):
    """Trains a `BlockLocal` network.

        trainer = Trainer(network, optimizer=sgd(lr=0.1), epochs=10)
        records = trainer.fit(train_loader, validation_loader)

    With `Batches`, whose order depends on seed and epoch alone, and with loaders that have a `state_dict` (torchdata's
    `StatefulDataLoader`), `state()` and `restore()` continue in mid-epoch bit for bit. A warning says where they
    cannot.

    The schedule is made for the length at the start; an epoch of another number of batches is warned of.

    A `fit` that fails (a batch that does not fit, an error in a callback, Ctrl-C) leaves the network as the last
    finished step left it, in the modes that it had; another `fit` goes on after that step. Only what interrupts a
    step between two blocks can leave earlier blocks an update ahead.

    Args:
        network: a `BlockLocal`, or the share of one that this process trains (`parallel.Stage`).
        optimizer: default, the network's own. Also a `torch.optim` class or any function that makes an optimiser of a
            list of parameters: every block builds its own.
        epochs: passes over the training batches.
        schedule: one-cycle, cosine, warmup-cosine or constant, per update; or a function of a block's optimiser and the
            number of updates that makes a torch scheduler.
        callbacks: what watches the training, in the order in which it is called.
        observers: an older name of `callbacks`; they come after those.
        should_stop: a function that is asked after every step.
        look_every: steps between two calls of the callbacks' `step` on CUDA, where a look at the losses waits for the
            device; on the CPU it is called at every step.
        accumulate: batches whose gradients every block adds up before it updates; it takes their mean, so that n equal
            batches teach what one of n times the size does (but for what looks at a batch as a whole: BatchNorm,
            the similarity loss). A step is a batch, an epoch ends with an update, and training is saved and stopped
            at updates alone.
        ema: how much of the running mean of the weights stays at an update, such as 0.999. Validation is of that mean;
            see `BlockLocal.averaged`. Training goes on with the weights themselves.
        show: whether every epoch is shown: in a notebook as a table and a curve, elsewhere as a line; default: in a
            notebook alone.
        first_epoch: the epoch, counted from 0, in which the schedule begins. Where training goes on after the end of an
            earlier schedule, `restore` begins a new one there, for the epochs that are left; momenta are kept.
        metrics: your own measures of the output on the validation batches, by name: functions (output, y) → one
            number, or metrics of torchmetrics.

    Raises:
        InputError: a setting is unknown or impossible.
    """

    def __init__(
        self,
        network: Neighbours,
        *,
        optimizer: Optimizer | OptimizerFactory | None = None,
        epochs: int = 10,
        schedule: Schedule = "one-cycle",
        callbacks: Iterable[Callback] = (),
        observers: Iterable[Callback] = (),
        should_stop: Callable[[], bool] | None = None,
        look_every: int = CHECK_EVERY,
        accumulate: int = 1,
        ema: float | None = None,
        show: bool | None = None,
        first_epoch: int = 0,
        metrics: Metrics | None = None,
    ):
        check_network(network)
        check_range("epochs", epochs, FROM_ONE)
        check_range("first_epoch", first_epoch, whole(0, epochs - 1))
        check_range("look_every", look_every, FROM_ONE)
        check_range("accumulate", accumulate, FROM_ONE)
        if should_stop is not None and not callable(should_stop):
            raise InputError(f"should_stop must be a function without arguments, not {shown(should_stop)}.")
        chosen = as_optimizer(network.optimizer if optimizer is None else optimizer)
        chosen = chosen if ema is None else replace(chosen, ema=ema)
        super().__init__(network, chosen, as_schedule(schedule), first_epoch)
        self.epochs = epochs
        self.look_every, self.accumulate = look_every, accumulate
        self.callbacks = [*check_callbacks(callbacks), *check_callbacks(observers)]
        self.metrics = check_metrics(metrics)
        if in_notebook() if show is None else show:
            self.callbacks.append(Shown())
        self.should_stop = should_stop or (lambda: False)
        self.whole = True  # whether all blocks have taken the same steps: see `Stepped`
        self.stopped: str | None = None  # why the last `fit` ended before its last epoch

    def fit(self, train: Loader, validation: Iterable[Loaded] | None = None) -> list[Record]:
        """Train to the last epoch, from where training stands.

        Args:
            train: (x, y) batches with a length: a `torch.utils.data.DataLoader`, `Batches`, or a list. x is a tensor,
                or a tuple or dictionary of them; a batch of tensors by name is split into `labels` and all others.
            validation: batches on which every block is measured after each epoch.

        Returns:
            One record per epoch (the metrics of a run, see `docs/runs.md`); fewer than `epochs` where a callback ended
            the training (`stop`); `stopped` says why.

        Raises:
            InputError: a loader or a batch cannot be used.
            NotFinite: a loss became NaN or infinite.
            Stopped: should_stop said so.
        """
        if validation is not None:
            check_loader("validation", validation)
        self.stopped = None
        with kept_modes([self.network], after_failure=True):
            self.prepare(train)
            with running(self.callbacks, self):
                self._run(train, validation)
        return self.records

    def _run(self, train: Loader, validation: Iterable[Loaded] | None) -> None:
        for epoch in range(self.epoch, self.epochs):
            if self.stopped is not None:
                break
            self.epoch = self.network.epoch = epoch
            record = self._run_epoch(train)
            record |= self._validate(validation)
            self.epoch, self.step_in_epoch, self.tally, self._start = epoch + 1, 0, None, None
            self.records.append(record)
            for callback in self.callbacks:
                callback.epoch(self, record)

    def stop(self, reason: str) -> None:
        """End the training after this epoch and its callbacks; `fit` returns its records. For callbacks.

        Args:
            reason: a half sentence, kept in `stopped`.
        """
        self.stopped = reason

    def prepare(self, train: Loader) -> None:
        """Make what needs the shapes of a batch or the number of steps; `fit` does it, unless it is done already.

        Raises:
            InputError: the loader has no length, or an optimiser or a schedule cannot be built; the blocks keep theirs.
        """
        if self._prepared:
            return
        steps = steps_of(train)
        if not self.network.learners:
            self.network.materialize(map_message(self._to_device, first_batch(train)[0]))
        self.steps_per_epoch = steps
        updates = (self.epochs - self.first_epoch) * math.ceil(steps / self.accumulate)
        with _learners_after_failure(self.network):
            self.network.configure(self.optimizer, self.schedule, updates)
        self.network.accumulate = self.accumulate
        self._prepared = True

    # --- one epoch

    def _run_epoch(self, train: Loader) -> Record:
        tally = self.tally = self.tally or self._new_tally()
        start = self._start = self._start or Start(self.network.rate(), self.seconds, self.images)
        started, before = time.perf_counter(), self.seconds
        losses: list[float] | None = []
        walk = self.network.walk(self._moved(self._feed.batches(train, self.epoch, self.step_in_epoch)))
        with self._consistent(walk):
            for stepped in walk:
                self._take(stepped, tally)
                losses = self._losses(tally, last=self.step_in_epoch == self.steps_per_epoch)
                self.seconds = before + time.perf_counter() - started
                if stepped.whole:  # before anybody looks at the network: callbacks see what these steps have made of it
                    self._commit()
                self._show(losses)
                if stepped.whole and self.should_stop():
                    raise Stopped
        self._check_length()
        if losses is None:
            self._show(self._losses(tally, last=True))
        return {
            "event": "epoch",
            "epoch": self.epoch + 1,
            "step": self.step,
            "seconds": self.seconds - start.seconds,
            "images_per_second": (self.images - start.images) / max(self.seconds - start.seconds, 1e-9),
            "lr": start.lr,
            "message": self.network.message_sizes(),
            **tally.record(),
        }

    def _take(self, stepped: Stepped, tally: Tally) -> None:
        self.step_in_epoch, self.whole = self.step_in_epoch + 1, stepped.whole
        tally.add(self.step, stepped.results, stepped.y)
        self.images += len(stepped.y) * self.network.shares

    def _commit(self) -> None:
        self.network.commit(self.state)
        self._committed = self._now()

    def _now(self) -> _Committed:
        tally = None if self.tally is None else self.tally.copy()
        return _Committed(self.network.steps, self.step_in_epoch, self.images, self.seconds, tally)

    @contextmanager
    def _consistent(self, walk: Iterator[Stepped]) -> Generator[None, None, None]:
        """After an error, the trainer stands where the network does.

        Steps that all blocks have taken already are taken in. Where the network has given up steps, as when they could
        not be committed, so does the trainer.
        """
        self._committed = self._now()
        try:
            yield
        except BaseException as error:
            try:
                if not self.whole and self.tally is not None and not isinstance(error, NotFinite):
                    for stepped in walk:
                        self._take(stepped, self.tally)
                        if stepped.whole:
                            self._commit()
                            break
            finally:
                if isinstance(walk, Generator):
                    walk.close()
                kept = self._committed
                if self.network.steps == kept.step:
                    self.step_in_epoch, self.images, self.seconds, self.tally = kept[1:]
                    self.whole = True
            raise

    def _check_length(self) -> None:
        """After an epoch: whether it had the batches that the schedule was made for."""
        expected = self.steps_per_epoch or 0
        if not self.step_in_epoch:
            raise nothing_came(self.epoch + 1, expected)
        if self.step_in_epoch != expected:
            logger.warning(
                "epoch %d had %d batches, and the training loader's length was %d when the learning-rate schedule was "
                "made: it ends early or late.",
                self.epoch + 1, self.step_in_epoch, expected,
            )  # fmt: skip

    def _losses(self, tally: Tally, last: bool) -> list[float] | None:
        """The latest losses, checked; on CUDA only now and then, else None."""
        if not (last or self.network.device.type == "cpu" or self.step % self.look_every == 0):
            return None
        return tally.check()

    def _show(self, losses: list[float] | None) -> None:
        """Call the callbacks, where the losses have been looked at."""
        if losses is None:
            return
        for callback in self.callbacks:
            callback.step(self, losses)

    def _validate(self, validation: Iterable[Loaded] | None) -> Record:
        if validation is None:
            unknown: list[float | None] = [None] * len(self.network.learners)
            return {f"validation_{name}": unknown for name in self.network.targets.measures}
        with self.network.averaged() if self.optimizer.ema is not None else nullcontext():
            measured, own = measure_blocks(self.network, self._moved(validation), metrics=self.metrics)
        found: Record = {f"validation_{name}": values for name, values in measured.items()}
        return found | ({"metrics": own} if own else {})

    def _moved(self, given: Iterable[Loaded]) -> Iterator[XY]:
        for x, y in map(pair, given):
            yield map_message(self._to_device, x), y.to(self.network.device, non_blocking=True)

    def _to_device(self, t: Tensor) -> Tensor:
        return t.to(self.network.device, non_blocking=True)


@contextmanager
def _learners_after_failure(network: Neighbours) -> Generator[None, None, None]:
    """Where a block's new optimiser or schedule cannot be built, give all blocks back what they had."""
    learners = network.learners
    names = ("optimizer", "schedule", "schedule_steps", "clip", "ema", "scale")
    before = [[(name, getattr(learner, name)) for name in names] for learner in learners]
    try:
        yield
    except BaseException:
        for learner, kept in zip(learners, before, strict=True):
            for name, value in kept:
                setattr(learner, name, value)
        raise
