"""A run of neighbouring block learners, a whole network or a share of one: what steps, predicts and is configured.

A whole network (`BlockLocal`) has all learners and open edges; a stage of several processes has some of them, and links
at its edges. What differs is in `edges`, and in the four methods that the two give.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn

from blocklocal._common.errors import InputError, shown
from blocklocal._common.message import Input, mask_after
from blocklocal.block.average import swap
from blocklocal.block.edges import Edges
from blocklocal.block.factories import OptimizerFactory
from blocklocal.block.learner import BlockLearner
from blocklocal.block.loss import LocalResult
from blocklocal.block.objectives import mixing
from blocklocal.block.optim import Optimizer, as_optimizer
from blocklocal.block.schedules import Schedule, as_schedule
from blocklocal.block.step import StepContext
from blocklocal.block.target import Wanted, with_weight
from blocklocal.block.targets import Asked, Targets
from blocklocal.network.edge import check_asked, taking_gradients
from blocklocal.network.saved import SavedNetwork
from blocklocal.network.settings import Learning
from blocklocal.network.updates import with_updates
from blocklocal.rules import RULES
from blocklocal.rules.base import Batch, target_messages

T = TypeVar("T")
PROGRESS = "_extra_state"  # the name that torch gives it in a state_dict


class Stepped(NamedTuple):
    """A step that all blocks have taken.

    Attributes:
        y: the targets, as they were given.
        results: of every learner that is here; None where it has no loss.
        whole: whether no block has taken a later step, so that the network may be saved and training stopped.
    """

    y: Asked
    results: list[LocalResult | None]
    whole: bool = True


def check_network(given: object) -> None:
    """Raise InputError for what is no network of block learners, as a plain module."""
    if not isinstance(given, Neighbours):
        kind = given.__name__ if isinstance(given, type) else type(given).__name__
        raise InputError(
            f"the network must be a BlockLocal, not {kind}: give BlockLocal(split(model, blocks=4), classes=10)."
        )


class Neighbours(nn.Module, ABC):
    """Neighbouring block learners with their targets, settings, steps and epoch.

    Attributes:
        targets: what the network is asked for.
        learning: the settings of rule and local losses.
        steps, epoch: how far training is. They name the random streams of a step (dropout) and the mixing weight, and
            are part of the `state_dict`.
        shares: parts of a batch that are trained on at the same time (replicas).
        accumulate: batches of a `walk` whose gradients are added up before the blocks update.
    """

    edges: Edges
    accumulate = 1
    averaging = False  # whether its weights are their running means now
    _held = 0  # steps since the blocks updated
    _rows: Tensor  # one-hot target rows, where every twin starts

    def __init__(self, targets: Targets, learning: Learning, optimizer: Optimizer, seed: int, shares: int = 1):
        super().__init__()
        self.targets, self.learning, self.rule = targets, learning, RULES.get(learning.rule)
        self.stream, self.shares = seed, shares
        self.steps, self.epoch = 0, 0
        self._learners = nn.ModuleList()
        self._optimisation: tuple[Optimizer, Schedule, int] = (optimizer, "constant", 1)
        self._autocast: torch.dtype | None = None

    @abstractmethod
    def check(self, x: Input, y: Asked) -> tuple[Input, Asked]:
        """A training batch as it may be used.

        Raises:
            InputError: it cannot be right; nothing is changed then.
        """

    @abstractmethod
    def prepare(self, x: Input, y: Asked) -> None:
        """Be ready for a checked batch: the learners are there, they run on it, and its messages are expected."""

    @abstractmethod
    def check_input(self, x: Input) -> Input:
        """An input, to be looked at without learning, as it may be used.

        Raises:
            InputError: it cannot be right.
        """

    @abstractmethod
    def looking(self, x: Input) -> AbstractContextManager[None]:
        """Be ready for a checked input, and return the context in which the learners run on it."""

    @property
    @abstractmethod
    def count(self) -> int:
        """Number of learners of the whole network."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the learners are."""

    @abstractmethod
    def materialize(self, example: Input) -> None:
        """Make what needs the shape of a batch [B, …], where it is not made yet."""

    # --- the learners

    @property
    def learners(self) -> list[BlockLearner]:
        """The block learners that are here, first to last; they know their `index` in the network."""
        return cast(list[BlockLearner], list(self._learners))

    @property
    def units(self) -> list[BlockLearner]:
        """An older name of `learners`."""
        return self.learners

    @property
    def optimizer(self) -> Optimizer:
        """Which optimiser every block has."""
        return self._optimisation[0]

    def configure(
        self, optimizer: Optimizer | OptimizerFactory, schedule: Schedule = "constant", steps: int = 1
    ) -> None:
        """Give every block its own optimiser and learning-rate schedule of `steps` steps."""
        optimisation = (as_optimizer(optimizer), as_schedule(schedule), steps)
        for learner in self.learners:
            learner.configure(*optimisation)
        self._optimisation = optimisation

    def autocast(self, dtype: torch.dtype | None) -> None:
        """Run blocks in this precision (for example torch.bfloat16); None: as the parameters are.

        In torch.float16 every block scales its own loss (torch's GradScaler), so that small gradients do not vanish.

        Raises:
            InputError: it is no floating type of torch's.
        """
        if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
            raise InputError(f"autocast takes a floating type, as in torch.bfloat16, or None, not {shown(dtype)}.")
        self._autocast = dtype
        for learner in self.learners:
            learner.cast(dtype)

    @contextmanager
    def averaged(self) -> Generator[None]:
        """Within it, the weights are their running means (EMA): to evaluate, predict or export, and not to train.

            trainer = Trainer(network, ema=0.999)
            trainer.fit(train)
            with network.averaged():
                evaluate(network, test)

        Buffers, such as the statistics of a BatchNorm, are the network's own.

        Raises:
            InputError: its optimisers keep no means.
        """
        if self.optimizer.ema is None:
            raise InputError("this network keeps no running mean of its weights: train it by Trainer(…, ema=0.999).")
        if self.averaging:
            raise InputError("the network's weights are their running means already.")
        with self._swapped():
            self.averaging = True
            try:
                yield
            finally:
                self.averaging = False

    def keep_averages(self) -> None:
        """Put the running means in the place of the weights for good; the optimisers begin anew."""
        for learner in self.learners:
            if learner.optimizer is not None:
                swap(learner.optimizer)
        self.configure(*self._optimisation)

    @contextmanager
    def _swapped(self) -> Generator[None]:
        with ExitStack() as swapped:
            for learner in self.learners:
                swapped.enter_context(learner.averaged())
            yield

    # --- walks over pairs (block, step)

    def walk(self, batches: Iterable[tuple[Input, Asked]]) -> Iterator["Stepped"]:
        """Train on batches, step by step: for every step, for every block.

        Another order of the pairs (block, step) gives the same weights as long as (k − 1, t) and (k, t − 1) come before
        (k, t). Where a network takes another one, the steps are given out when all blocks have taken them.

        Raises:
            InputError: as `step`.
        """
        for (x, y), update in with_updates(batches, self.accumulate):
            yield Stepped(y, self.step(x, y, update=update), whole=update)

    def each(self, do: Callable[[BlockLearner], T], *, optimizers: bool = True) -> list[T]:
        """What `do` gives for every learner that is here, first to last. It must not change or keep the learner.

        Args:
            optimizers: whether `do` looks at optimisers; where blocks rest in files, they are not read else.
        """
        return [do(learner) for learner in self.learners]

    def look(self, batches: Iterable[tuple[Input, Asked]]) -> Iterator[tuple[Asked, list[Tensor | None]]]:
        """(y, the blocks' own logits as `block_logits` gives them) for every batch, in order.

        The targets are those of a loss (`Targets.asked`), and of padded positions they are missing.
        """
        for x, y in batches:
            logits, mask = self._logits(self.check_input(x))
            yield self.looked_for(y, mask), logits

    def looked_for(self, y: Asked, mask: Tensor | None) -> Asked:
        """The targets of a batch that was looked at, missing where its positions are not real."""
        return self.targets.without_padding(check_asked(y, self.targets, self.device), mask)

    def commit(self, state: Callable[[], dict[str, Any]]) -> None:
        """All blocks have taken the same steps, and training stands at `state`. Where blocks rest in files, keep it."""

    def take(self, saved: SavedNetwork) -> None:
        """Go on from a checkpoint. Nothing has changed where it cannot be read.

        Args:
            saved: the checkpoint.

        Raises:
            InputError: it is damaged, or its optimisers are others.
        """
        found = [saved.read(learner) for learner in self.learners]
        for learner, of_learner in zip(self.learners, found, strict=True):
            saved.check(learner, of_learner)
        for learner, of_learner in zip(self.learners, found, strict=True):
            saved.give(learner, of_learner)
        self.steps = saved.step

    def begin_schedules(self, optimizer: Optimizer, schedule: Schedule) -> None:
        """Begin every block's schedule anew; its optimiser keeps its momenta."""
        for learner in self.learners:
            learner.begin_schedule(optimizer, schedule)

    def rate(self) -> float | None:
        """The present learning rate, of the last block, which learns under every rule; None for no optimiser."""
        optimizer = self.learners[-1].optimizer
        return optimizer.param_groups[0].get("lr") if optimizer else None

    # --- what they do

    @taking_gradients()
    def step(
        self, x: Input, y: Wanted, weight: Tensor | None = None, *, update: bool = True
    ) -> list[LocalResult | None]:
        """One training step: every block takes its local loss and updates itself.

        It takes its own gradients under the caller's `torch.no_grad()` and `torch.inference_mode()` too. A network in
        evaluation mode is put in training mode; a part of it that is in evaluation mode by itself stays there.

        Args:
            x: the batch [B, …]: a tensor, or a tuple or dictionary of tensors, as the first block reads it.
            y: its targets, [B] (or [B, T], [B, H, W], [B, L], [B, V]; or soft ones, [B, C]).
            weight: how much every sample counts in every loss, [B]; or every position.
            update: False: the blocks keep their gradients, and a later step with an update takes the mean over all of
                these steps (gradient accumulation). Where a block fails on a batch, all that they kept is dropped.

        Returns:
            One result per learner (None for a block without a loss of its own), detached.

        Raises:
            InputError: for a batch that cannot be right (`edge.check_batch` says what is looked at when) or on which a
                block does not run. It has changed nothing then.
        """
        self.check_trainable()
        x, asked = self.check(x, with_weight(y, weight))
        if not self.training:
            self.train()
        self.begin()
        self.prepare(x, asked)
        for learner in self.learners:
            learner.holds = not update
        context, before = StepContext(self.stream, self.steps, mixing(self.learning.tau, self.epoch)), self.steps
        try:
            walk = self.rule.step_function(self.learning.scope)
            results = walk(self.learners, Batch(x, asked, self._rows, context, self.edges))
            self.steps, self._held = self.steps + 1, 0 if update else self._held + 1
            self.after_step()
        finally:
            if self.steps == before:  # what failed in between must not leave gradients for the next step
                self.steps, self._held = self.steps - self._held, 0  # nor count those whose gradients are dropped
                for learner in self.learners:
                    learner.forget()
        return results

    def check_trainable(self) -> None:
        """Raise InputError where the weights are not those that are trained."""
        if self.averaging:
            raise InputError("a network is not trained or saved within averaged(): leave that `with` before.")

    def block_logits(self, x: Input) -> list[Tensor | None]:
        """The own logits of every block that is here, None where a block cannot predict. Modes are left as they are.

        Args:
            x: the batch [B, …].

        Returns:
            Per learner the scores of every target row, [B, R] or [B, T, R].

        Raises:
            InputError: for an x that is not finite; on CUDA, where that makes the host wait, only `predict` looks.
        """
        return self._logits(self.check_input(x))[0]

    @torch.no_grad()
    def _logits(self, x: Input) -> tuple[list[Tensor | None], Tensor | None]:
        """The logits of every block, and which positions of the last one's output are real (`mask_after`)."""
        self.begin()
        logits: list[Tensor | None] = []
        mask: Tensor | None = None
        with self.looking(x):
            a: Any = self.edges.take_forward(x)
            for learner, message in zip(self.learners, self._messages(), strict=True):
                given, a = a, learner(a)
                mask = mask_after(given, a)
                logits.append(learner.scores(a, message, mask))
                self.looked()
            self.edges.send_forward(a)
        return logits, mask

    def message_sizes(self) -> list[float | None]:
        """Mean |b| of the backward message of every block that is here; None where there is none."""
        if not self.learners:
            return []
        self.begin()
        with torch.no_grad():
            sizes = [None if b is None else b.abs().mean().item() for b in self._messages()]
        self.looked()
        return sizes

    def begin(self) -> None:
        """Something is about to run, perhaps for the first time."""

    def after_step(self) -> None:
        """A step is over."""

    def looked(self) -> None:
        """A learner has run without learning."""

    def _messages(self) -> Sequence[Tensor | None]:
        return target_messages(self.learners, self.edges.take_target(self._rows, learning=False))

    # --- how far training is, in the state_dict

    def get_extra_state(self) -> Tensor:
        """[steps, epoch], so that random streams and the mixing schedule go on after `load_state_dict`."""
        return torch.tensor([self.steps, self.epoch])

    def set_extra_state(self, state: Tensor) -> None:
        known = isinstance(state, Tensor) and state.shape == (2,) and not state.is_floating_point()
        if not known or state.is_complex() or bool((state < 0).any()):
            raise InputError(
                f"{PROGRESS} of a network's state_dict must be two whole numbers from 0 on, steps and epoch, not "
                f"{shown(state)}: load what state_dict() gave, or leave it out."
            )
        self.steps, self.epoch = state.tolist()

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As of any module, older names of learners too. One without `steps` and `epoch` leaves them as they are."""
        named = {re.sub(r"^_units\.", "_learners.", name): value for name, value in state_dict.items()}
        complete = {PROGRESS: self.get_extra_state(), **named} if named else {}
        return super().load_state_dict(complete, strict=strict, assign=assign)
