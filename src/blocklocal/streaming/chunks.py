"""How a streamed network trains: in chunks of N steps, which count as a whole or not at all."""

import logging
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from torch import Tensor

from blocklocal._common.errors import InputError
from blocklocal._common.message import Input
from blocklocal.block.learner import BlockLearner
from blocklocal.block.loss import LocalResult
from blocklocal.block.objectives import mixing
from blocklocal.block.step import StepContext
from blocklocal.block.target import Asked, Wanted, with_weight
from blocklocal.network.edge import taking_gradients
from blocklocal.network.neighbours import Stepped
from blocklocal.network.updates import with_updates
from blocklocal.rules.base import Batch
from blocklocal.streaming.looking import Looking
from blocklocal.streaming.stock import Known
from blocklocal.timeline.segments import COMPUTE
from blocklocal.timeline.visits import VisitRecorder
from blocklocal.training.tally import check_weights

log = logging.getLogger("blocklocal")
TORN = (
    "training ended within a chunk of steps, and what rests in host memory cannot be put back: some blocks have taken "
    "these steps, and others have not. Load what was saved last before you go on: blocklocal.load(network, folder), or "
    "blocklocal train --resume RUN."
)


class Chunks(Looking):
    """What a streamed network does with blocks that learn.

    Attributes:
        timeline: is told when blocks compute.
        watch: told what is done now, and how far the chunk is (`Progress.work`).
    """

    timeline: VisitRecorder
    watch: Callable[[str, float], object]
    _trains: bool
    _uncommitted = False  # whether blocks have taken the steps of a chunk that does not count yet

    @taking_gradients()
    def step(
        self, x: Input, y: Wanted, weight: Tensor | None = None, *, update: bool = True
    ) -> list[LocalResult | None]:
        """One training step, which reads and writes all blocks: `walk` does it once per N steps.

        Raises:
            InputError: without an update, whose gradients no block could keep while it rests.
        """
        if not update or self.accumulate > 1:
            raise InputError(
                "a streamed network adds gradients up within a chunk of steps alone: train it by Trainer(network, "
                "accumulate=…), or give step larger batches."
            )
        (stepped,) = self.walk([(x, with_weight(y, weight))])
        return stepped.results

    def walk(self, batches: Iterable[tuple[Input, Asked]]) -> Iterator[Stepped]:
        """Train on batches, block by block: for every N of them, for every block.

        A chunk counts when it is committed: after its last step by who takes the steps, or else before the next chunk.
        Where that fails, or the walk ends within the steps of a chunk, the network is as after the last commit. In host
        memory, which would have to hold all blocks twice, a chunk cannot be undone: where it fails, some blocks have
        taken its steps and others have not, and a warning says so; where the walk ends, the network is as after it.

        Args:
            batches: (x, y).

        Raises:
            InputError: as `step`.
        """
        if not self._trains:
            raise InputError("this network was made to be looked at (trains=False): make one anew to train it.")
        if self.visit_steps % self.accumulate:
            raise InputError(
                f"{self.visit_steps} steps in a row are no whole number of updates after {self.accumulate} steps each: "
                f"give a visit of {self.accumulate * max(1, self.visit_steps // self.accumulate)}."
            )
        self.check_trainable()
        coming = iter(batches)
        self.timeline.begin()
        while chunk := [self.check(x, y) for x, y in islice(coming, self.visit_steps)]:
            if not self.training:
                self.train()
            before = self.steps, self.stock.known
            results = self._chunk(chunk)
            try:
                for t, (_, y) in enumerate(chunk):
                    self.steps += 1
                    self.after_step()
                    yield Stepped(y, [each[t] for each in results], whole=t == len(chunk) - 1)
                if self._uncommitted:
                    self.commit(self._own_state)
            except BaseException as error:
                undone = not self._uncommitted or self._given_up(before)
                if not undone and isinstance(error, GeneratorExit):  # in host memory, where the chunk cannot be undone
                    self.steps = before[0] + len(chunk)
                    self.commit(self._own_state)
                raise
        self.timeline.totals(self.epoch + 1)

    @taking_gradients()
    def _chunk(self, batches: list[tuple[Input, Asked]]) -> list[list[LocalResult | None]]:
        """Every block's steps in a row; per block, the results of the steps."""
        self.begin()
        for x, y in batches:
            self.prepare(x, y)
        self.expect([len(y) for _, y in batches], training=True)
        self.know_late()
        self.home.begin(self.steps + len(batches))
        before = self.steps, self.stock.known
        late = self.stock.known.late  # as all twins stood at the start of the chunk

        take_step = self.rule.step_function(self.learning.scope)

        def train(learner: BlockLearner) -> list[LocalResult | None]:
            results = []
            for (t, (x, y)), update in with_updates(enumerate(batches), self.accumulate):
                learner.holds = not update
                edges = self._edges(learner, t, self._message(late, learner.index, t))
                context = StepContext(self.stream, self.steps + t, mixing(self.learning.tau, self.epoch))
                with self.timeline.span(COMPUTE, learner.index, t):
                    (result,) = take_step([learner], Batch(x, y, self.rows, context, edges))
                place = learner.index - self.learners[0].index
                done = (place * len(batches) + t + 1) / len(self.learners)
                self.watch(f"block {learner.index + 1} of {self.count}, step {self.steps + t + 1}", done)
                results.append(None if result is None else result.counted(self.targets, y))
            check_weights(learner, self.steps + len(batches))
            self.stock.note(learner)
            return results

        try:
            with self.timeline.chunk(self.steps + 1, len(batches)):
                results = self.visits.run(self.stock.places, train, writes=True)
        except BaseException:
            if not self._given_up(before) and before[1].resting:
                log.warning(TORN)
            raise
        self._uncommitted = True
        return results

    def _given_up(self, before: tuple[int, Known]) -> bool:
        """Whether the network is again as before the chunk."""
        self._cache.clear()
        self._uncommitted = False
        undone = self.home.discard()
        if undone:
            self.steps, self.stock.known = before
        return undone

    def commit(self, state: Callable[[], dict[str, Any]]) -> None:
        self.stock.commit(state)
        self._uncommitted = False
        self.home.tidy()  # after the chunk counts: an error here takes nothing back

    def _own_state(self) -> dict[str, Any]:
        return {"step": self.steps, "network_epoch": self.epoch}
