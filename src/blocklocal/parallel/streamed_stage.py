"""A stage of which one block at a time is in memory: block by block in a process, a wavefront over processes."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch.nn as nn

from blocklocal._common.errors import InputError
from blocklocal._common.message import Input
from blocklocal.block.learner import BlockLearner
from blocklocal.block.targets import Asked
from blocklocal.network.network import BlockLocal
from blocklocal.parallel.link_edges import LinkEdges
from blocklocal.parallel.linked import Linked
from blocklocal.parallel.processes import Processes
from blocklocal.parallel.stage import MAX_IN_FLIGHT, check_placement, check_rule, passing_back
from blocklocal.streaming.streamed import Streamed
from blocklocal.timeline.visits import VisitRecorder


class StreamedStage(Linked, Streamed):
    """The learners that this process trains, one at a time in memory, in the place of the network in a `Trainer`.

    Args:
        build: makes the whole network, as for `Streamed`.
        processes: this process among the others.
        placement: number of blocks of every stage.
        max_in_flight: forward messages that may be under way to the next stage.
        recorder: is told when blocks compute, are fetched and are written back, and when the stage waits and sends.
        streaming: as for `Streamed`; every process has a store of its own.

    Raises:
        InputError: as for `Streamed` and `Stage`; and for replicas, and a chained twin over a link.
    """

    def __init__(
        self,
        build: Callable[[], BlockLocal],
        processes: Processes,
        placement: Sequence[int],
        *,
        max_in_flight: int = MAX_IN_FLIGHT,
        recorder: VisitRecorder | None = None,
        **streaming: Any,
    ):
        super().__init__(build, recorder=recorder, **streaming)
        learners = self.network.learners
        check_placement(placement, len(learners), processes.stages)
        check_rule(self.network.rule, self.network.learning, late=False)
        check_spread(learners, placement, processes.replicas)
        first = sum(placement[: processes.stage])
        share = range(first, first + placement[processes.stage])
        self.processes, self.recorder = processes, self.timeline
        self._learners = nn.ModuleList(learners[share.start : share.stop])
        self.stock.shapes = self.learners
        self._target_shape = self.network.target_shape
        self._begun = False
        self.edges = LinkEdges(  # type: ignore[bad-override-mutable-attribute]
            processes,
            learners,
            share,
            [False] * (processes.stages - 1),
            depth=max_in_flight,
            device=self.device,
            recorder=self.recorder,
        )

    def begin(self) -> None:
        """At the first step or evaluation, when weights and step are those that training starts from."""
        if not self._begun:
            self._begun = True
            self.edges.begin(None)

    def prepare(self, x: Input, y: Asked) -> None:
        """Nothing: the messages of a chunk are expected together."""

    def looking(self, x: Input) -> AbstractContextManager[None]:
        return nullcontext()

    def after_step(self) -> None:
        """Nothing: the recorder is told of a chunk as a whole."""

    def after_epoch(self, epoch: int) -> None:
        """Nothing: `walk` sums the epoch up."""

    def expect(self, sizes: Sequence[int], *, training: bool) -> None:
        self.edges.announce(sizes, training=training)


def check_spread(learners: Sequence[BlockLearner], placement: Sequence[int], replicas: int) -> None:
    """Refuse what several processes cannot stream.

    Args:
        learners: of the whole network.
        placement: number of blocks of every stage.

    Raises:
        InputError: replicas, or a chained twin over a link.
    """
    if replicas > 1:
        raise InputError("one block at a time has no replicas: leave out --replicas, or --visit.")
    if any(passing_back(learners, placement)):
        raise InputError(
            "a chained twin would pass its messages from process to process, and a block that takes many steps in a "
            "row cannot wait for them: give the dense twin, or one process."
        )
