"""A run of neighbouring block learners, a whole network or a share of one: what steps and predicts.

A whole network (`BlockLocal`) has all learners and open edges; a stage of several processes has some of them, and links
at its edges. What differs is in `edges`, and in the methods that each of the two gives.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from blocklocal._common.errors import InputError
from blocklocal._common.message import Input, lead, mask_after
from blocklocal.block.edges import Edges
from blocklocal.block.learner import BlockLearner
from blocklocal.block.loss import LocalResult
from blocklocal.block.objectives import mixing
from blocklocal.block.step import StepContext
from blocklocal.block.target import Wanted, with_weight
from blocklocal.block.targets import Asked
from blocklocal.network.edge import check_asked, check_finite, check_x, taking_gradients
from blocklocal.network.learner_row import LearnerRow
from blocklocal.network.updates import with_updates
from blocklocal.rules.base import Batch, target_messages

T = TypeVar("T")


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


class Neighbours(LearnerRow):
    """Neighbouring block learners that step and predict.

    Attributes:
        edges: where the messages of the first and the last learner come from and go.
        accumulate: batches of a `walk` whose gradients are added up before the blocks update.
    """

    edges: Edges
    accumulate = 1
    _held = 0  # steps since the blocks updated
    rows: Tensor  # what twins start from, see `assembly.start_rows`

    @abstractmethod
    def check(self, x: Input, y: Asked) -> tuple[Input, Asked]:
        """A training batch as it may be used.

        Raises:
            InputError: it cannot be right; nothing is changed then.
        """

    @abstractmethod
    def prepare(self, x: Input, y: Asked) -> None:
        """Be ready for a checked batch: the learners are there, they run on it, and its messages are expected."""

    def check_input(self, x: Input) -> Input:
        """An input, to be looked at without learning, as it may be used.

        Raises:
            InputError: it cannot be right.
        """
        x = check_x(x, self.device)
        if not lead(x).is_cuda:
            check_finite(x)
        return x

    @abstractmethod
    def looking(self, x: Input) -> AbstractContextManager[None]:
        """Be ready for a checked input, and return the context in which the learners run on it."""

    @abstractmethod
    def materialize(self, example: Input) -> None:
        """Make what needs the shape of a batch [B, …], where it is not made yet."""

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
            results = walk(self.learners, Batch(x, asked, self.rows, context, self.edges))
            self.steps, self._held = self.steps + 1, 0 if update else self._held + 1
            self.after_step()
        finally:
            if self.steps == before:  # what failed in between must not leave gradients for the next step
                self.steps, self._held = self.steps - self._held, 0  # nor count those whose gradients are dropped
                for learner in self.learners:
                    learner.forget()
        return results

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
            for learner, message in zip(self.learners, self.own_messages(), strict=True):
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
            sizes = [None if b is None else b.abs().mean().item() for b in self.own_messages()]
        self.looked()
        return sizes

    def begin(self) -> None:
        """Something is about to run, perhaps for the first time."""

    def after_step(self) -> None:
        """A step is over."""

    def looked(self) -> None:
        """A learner has run without learning."""

    def own_messages(self) -> Sequence[Tensor | None]:
        """The backward message of every block that is here, as it stands; None where there is none."""
        return target_messages(self.learners, self.edges.take_target(self.rows, learning=False))
