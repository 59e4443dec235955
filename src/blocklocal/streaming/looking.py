"""A streamed network without training: evaluation and prediction walk block by block too."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import islice
from typing import TypeVar

import torch
from torch import Tensor

from blocklocal._common.message import Input, lead, map_message, mask_after
from blocklocal._common.modes import kept_modes
from blocklocal.block.learner import BlockLearner
from blocklocal.block.target import Asked
from blocklocal.network.edge import check_batch, check_finite, check_x, taking_gradients
from blocklocal.network.neighbours import Neighbours
from blocklocal.network.network import BlockLocal
from blocklocal.network.prediction import Prediction, Temperatures, predictions
from blocklocal.streaming.cache import Cache
from blocklocal.streaming.edges import CacheEdges
from blocklocal.streaming.homes import Home
from blocklocal.streaming.stock import Stock
from blocklocal.streaming.visits import Visits

T = TypeVar("T")


class Looking(Neighbours):
    """What a streamed network does with blocks that it fetches and lets go of as they were.

    Attributes:
        network: the whole network, without content.
        stock: gives the learners.
        visits: fetches one after the other.
        visit_steps: batches that a block takes in a row.
    """

    network: BlockLocal
    stock: Stock
    visits: Visits
    visit_steps: int
    _cache: Cache
    _chained: bool  # whether target messages go from twin to twin

    @property
    def home(self) -> Home:
        """Where blocks rest."""
        return self.stock.home

    # --- blocks come and go

    def each(self, do: Callable[[BlockLearner], T], *, optimizers: bool = True) -> list[T]:
        if not self.stock.known.resting:
            self.home.check_loaded()
        return self._visited(do, optimizers=optimizers)

    def backwards(self, do: Callable[[BlockLearner], T]) -> list[T]:
        """As `each`, without optimisers, last to first."""
        return self.visits.run(self.stock.places[::-1], do, writes=False, optimizers=False)

    def _visited(self, do: Callable[[BlockLearner], T], *, optimizers: bool = False) -> list[T]:
        """As `each`; before anything is trained or loaded, of the blocks as the ordinary construction makes them."""
        return self.visits.run(self.stock.places, do, writes=False, optimizers=optimizers)

    # --- target messages

    def target_message(self, k: int) -> Tensor:
        """What the twin of block k starts from in the next step: the target rows, or what a chained twin has sent."""
        message = self._message(self.stock.known.late, k, 0)
        return self.rows if message is None else message

    def _edges(self, learner: BlockLearner, step: int, message: Tensor | None = None) -> CacheEdges:
        """Of a block, in a step of the chunk."""
        first, last = (learner.index == self.learners[k].index for k in (0, -1))
        return CacheEdges(self.edges, self._cache, step, first=first, last=last, message=message)

    def know_late(self) -> None:
        """Of chained twins: what is under way to each block, before the first visit."""
        if not self._chained or self.stock.known.late:
            return
        if self.network.learning.message_delay:
            self._visited(self.stock.note, optimizers=True)
            return
        # Nothing is under way between steps: a message is there when the blocks behind have passed theirs on.
        passed, incoming = dict[int, Tensor](), self.rows

        def pass_on(learner: BlockLearner) -> None:
            nonlocal incoming
            incoming = learner.message(incoming)[1]
            passed[learner.index] = incoming.unsqueeze(0)

        with torch.no_grad():
            self.backwards(pass_on)
        self.stock.known = replace(self.stock.known, late=passed)

    def _message(self, late: Mapping[int, Tensor], k: int, t: int) -> Tensor | None:
        """The target message that reaches block k in step t of a chunk from a chained twin; None: the target rows."""
        if k + 1 not in late:
            return None
        behind = self.network.learners[k + 1].twin
        if behind is None or behind.late is None:  # it came without a delay, as it is
            return late[k + 1][t]
        # In memory of its own, as `Twin.post` leaves it: a product may round in another way where a matrix begins
        # elsewhere than at a multiple of 64 bytes.
        return late[k + 1][min(t, len(late[k + 1]) - 1)].clone().view(behind.message_shape)

    # --- without training

    def look(self, batches: Iterable[tuple[Input, Asked]]) -> Iterator[tuple[Asked, list[Tensor | None]]]:
        coming = iter(batches)
        while chunk := list(islice(coming, self.visit_steps)):
            found = self._look([x for x, _ in chunk])
            for t, (_, y) in enumerate(chunk):
                yield self.looked_for(y, found[-1][t][1]), [each[t][0] for each in found]

    def block_logits(self, x: Input) -> list[Tensor | None]:
        return [each[0][0] for each in self._look([x])]

    @torch.no_grad()
    def _look(self, inputs: list[Input]) -> list[list[tuple[Tensor | None, Tensor | None]]]:
        """Per block, of all inputs the logits and which positions of its output are real."""
        self.begin()
        inputs = [self.check_input(x) for x in inputs]
        for x in inputs:
            self.looking(x)
        self.expect([len(lead(x)) for x in inputs], training=False)

        def look(learner: BlockLearner) -> list[tuple[Tensor | None, Tensor | None]]:
            message, found = self.own_message(learner), []
            for t, x in enumerate(inputs):
                edges = self._edges(learner, t)
                given = edges.take_forward(x)
                a = learner(given)
                mask = mask_after(given, a)
                found.append((learner.scores(a, message, mask), mask))
                edges.send_forward(a)
            return found

        self.know_late()
        return self.each(look, optimizers=False)

    def message_sizes(self) -> list[float | None]:
        with torch.no_grad():
            self.know_late()
            messages = self._visited(self.own_message)
            return [None if b is None else b.abs().mean().item() for b in messages]

    @torch.no_grad()
    def own_message(self, learner: BlockLearner) -> Tensor | None:
        return learner.message(self.target_message(learner.index))[0]

    @taking_gradients()
    def predict(self, x: Input, *, temperatures: Temperatures | None = None) -> Prediction:
        """As `BlockLocal.predict`."""
        x = check_x(x, self.device)
        check_finite(x)
        with kept_modes([self]):
            logits = self.eval().block_logits(x)
        return predictions(self.targets, logits, temperatures)

    # --- what is asked of neighbours

    def check(self, x: Input, y: Asked) -> tuple[Input, Asked]:
        return check_batch(x, y, self.targets, self.device, first=self.steps == 0)

    def prepare(self, x: Input, y: Asked) -> None:
        self.network.prepare(map_message(_shape, x), y)

    def looking(self, x: Input) -> AbstractContextManager[None]:
        self.network.output_shape(map_message(_shape, x), training=self.training)
        return nullcontext()

    def expect(self, sizes: Sequence[int], *, training: bool) -> None:
        """Batches of these sizes follow, in a chunk."""


def _shape(x: Tensor) -> Tensor:
    return torch.empty_like(x, device="meta")
