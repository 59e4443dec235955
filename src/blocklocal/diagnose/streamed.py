"""A network that does not fit, diagnosed: the same figures, with one block in memory at a time.

gradients   forward over all blocks, keeping what each of them reads. Then from the last block back: each one runs
again on what it has read, takes its own loss, and hands backprop's gradient to the block before.
figures     forward over all blocks, each with all batches in a row.
"""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from itertools import count, islice

import torch
from torch import Tensor

from blocklocal._common.errors import InputError
from blocklocal._common.message import Forward, lead
from blocklocal._common.modes import kept_modes
from blocklocal._common.seeds import seeded
from blocklocal.block.learner import BlockLearner
from blocklocal.block.objectives import mixing
from blocklocal.block.step import StepContext
from blocklocal.diagnose.gradients import cosine, weights_of
from blocklocal.diagnose.measure import Measured, Pairs, Seen, mean_image, measured
from blocklocal.diagnose.outputs import as_read, check_output
from blocklocal.diagnose.references import mean_statistics
from blocklocal.families import Family
from blocklocal.report.table import mean
from blocklocal.rules.base import Batch
from blocklocal.runs.sets import AnyBatches
from blocklocal.streaming.cache import Cache
from blocklocal.streaming.ends import Ends
from blocklocal.streaming.streamed import Streamed


def streamed_cosines(network: Streamed, batches: Iterable[tuple[Tensor, Tensor]], cache: Cache) -> list[float | None]:
    """As `gradients.gradient_cosines`, of a network whose rule is local.

    Every block is fetched twice per `network.visit_steps` batches.

    Args:
        cache: takes what every block reads of so many batches.
    """
    gradients = _Gradients(network, cache)
    coming = iter(batches)
    with kept_modes([network]):
        if not network.training:
            network.train()
        while chunk := list(islice(coming, network.visit_steps)):
            gradients.compare(chunk)
    return [mean(values) for values in gradients.found]


class _Gradients:
    """The cosines of every block, batch by batch."""

    def __init__(self, network: Streamed, cache: Cache):
        self.network, self.cache = network, cache
        self.found: list[list[float | None]] = [[] for _ in range(network.count)]
        self._context = StepContext(network.stream, network.steps, mixing(network.learning.tau, network.epoch))
        self._late: dict[int, Tensor] = {}  # of chained twins: what is under way after the batches so far

    def compare(self, chunk: list[tuple[Tensor, Tensor]]) -> None:
        """The cosines of a few batches (x, y)."""
        self._forward([x for x, _ in chunk])
        self._backward(chunk)

    @torch.no_grad()
    def _forward(self, read: list[Tensor]) -> None:
        """Keep what every block behind the first reads.

        Args:
            read: what the first one reads.
        """
        last = self.network.count - 1

        def run(learner: BlockLearner) -> None:
            for t, a in enumerate(read):
                if learner.index:
                    self.cache.put(self._key(learner, t), a)
                if learner.index < last:
                    with self._on_its_stream(learner):
                        read[t] = _alone(learner(a), self.network.split.names[learner.index])

        self.network.each(run, optimizers=False)

    def _backward(self, chunk: list[tuple[Tensor, Tensor]]) -> None:
        """From the last block to the first: each has the gradient at its output, and the target message, by then."""
        targets: list[Tensor] = [self.network.rows for _ in chunk]
        gradients: list[Tensor | None] = [None for _ in chunk]

        def run(learner: BlockLearner) -> None:
            learner.optimizer = None  # a step then leaves its gradients, and moves nothing
            if learner.twin is not None and learner.index in self._late:
                learner.twin.late = self._late[learner.index]
            for t, (x, y) in enumerate(chunk):
                a = lead(self.cache.take(self._key(learner, t))) if learner.index else x
                target = targets[t]
                with torch.no_grad():
                    targets[t] = learner.message(target)[1]  # what its step passes on
                own = self._own(learner, Batch(x, y, self.network.rows, self._context, Ends(a, target)))
                gradients[t] = self._backprop(learner, a, y, gradients[t])
                self.found[learner.index].append(cosine(own, _taken(learner)))
            if learner.late is not None:
                self._late[learner.index] = learner.late.clone()

        self.network.backwards(run)

    def _own(self, learner: BlockLearner, batch: Batch) -> list[Tensor | None]:
        """What a step of the rule leaves in the weights of the block."""
        self.network.rule.step_function(self.network.learning.scope)([learner], batch)
        return _taken(learner)

    def _backprop(self, learner: BlockLearner, a: Tensor, y: Tensor, gradient: Tensor | None) -> Tensor | None:
        """Backprop's gradients into the weights of the block, and the one at its input.

        Args:
            gradient: at its output; of no use for the last block, whose loss is the output's.
        """
        source = a.detach()
        if learner.index:
            source.requires_grad_(source.is_floating_point())
        with torch.enable_grad(), self._on_its_stream(learner):
            if learner.index == self.network.count - 1:
                _, result = learner.learn(source, y, None, {}, 1.0)
                assert result is not None
                result.loss.backward()
            elif gradient is not None:
                out = learner(source)
                if out.requires_grad:
                    out.backward(gradient.to(out.dtype))
        return source.grad

    def _on_its_stream(self, learner: BlockLearner) -> AbstractContextManager[None]:
        """The dropout that the block has in a step of its own."""
        return seeded("block", self._context.seed, learner.index, self._context.step)

    def _key(self, learner: BlockLearner, t: int) -> int:
        """Of a message in the cache."""
        return learner.index * self.network.visit_steps + t


def _taken(learner: BlockLearner) -> list[Tensor | None]:
    """The gradients of the block's weights, which are dropped from the learner."""
    gradients = [p.grad for p in weights_of(learner.block)]
    learner.zero_grad(set_to_none=True)
    return gradients


def _alone(message: Forward, name: str) -> Tensor:
    """Raise InputError for a message of several tensors: gradients go through all of them."""
    if isinstance(message, Tensor):
        return message
    raise InputError(
        f"the block {name!r} gives several tensors ({', '.join(['hidden', *message.beside])}); diagnose with --visit "
        "follows one. Leave out --visit where the network fits."
    )


def nothing(learner: BlockLearner) -> None:
    """Leave a block as it is."""


def measure_streamed(
    network: Streamed,
    family: Family,
    fit: Pairs,
    held: Pairs,
    cache: Cache,
    before: Callable[[BlockLearner], None] = nothing,
) -> Measured:
    """As `measure.measure`. Every block is fetched once.

    Args:
        cache: takes what a block gives for all batches.
        before: is called with every learner first.
    """
    middle = mean_image(fit)

    @torch.no_grad()
    def look(learner: BlockLearner, batches: Pairs, places: Iterable[int]) -> Seen:
        seen, first, last = Seen(), learner.index == 0, learner.index == network.count - 1
        message = network.own_message(learner)
        for t, (x, y) in zip(places, batches, strict=False):
            a = _alone(learner(x if first else cache.take(t)), network.split.names[learner.index])
            check_output(a, network.split.names[learner.index])
            seen.add(as_read(a, None if last else family), x - middle, y)
            seen.count_right(network.targets, a if last else learner.scores(a, message))
            if not last:
                cache.put(t, a)
        return seen

    def figures(learner: BlockLearner) -> tuple[float, float | None, float]:
        before(learner)
        fitted, scored = look(learner, fit, count(0, 2)), look(learner, held, count(1, 2))  # places: even, and odd
        return measured(fitted, scored, network.targets.count)

    with kept_modes([network]):
        network.eval()
        network.know_late()
        return Measured.of(network.each(figures, optimizers=False))


class Following:
    """As `references.follow_statistics`, for one block after the other.

    Args:
        batches: without augmentation.
        cache: takes what a block gives for all of them.
    """

    def __init__(self, network: Streamed, batches: AnyBatches, cache: Cache):
        self.network, self.batches, self.cache = network, batches, cache

    @torch.no_grad()
    def __call__(self, learner: BlockLearner) -> None:
        """Set the statistics of a block; those before it have had their turn."""
        k, last = learner.index, self.network.count - 1
        with kept_modes([learner]), mean_statistics([learner.block]):
            learner.train()
            for t, (x, _) in enumerate(self.batches.epoch(0)):
                a = self.cache.take(t) if k else x
                with seeded("diagnose", self.network.stream, k, t):
                    a = learner(a)
                if k < last:
                    self.cache.put(t, a)
