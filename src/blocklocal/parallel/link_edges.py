"""The edges of a stage: its neighbours are in other processes, and their messages come over links."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from torch import Tensor

from blocklocal._common.message import Forward, Given, Input
from blocklocal.block.learner import BlockLearner
from blocklocal.parallel.late import BackReceiver, BackSender
from blocklocal.parallel.links import END, STOP, Inbox, Outbox
from blocklocal.parallel.processes import Processes
from blocklocal.timeline.recorder import Recorder
from blocklocal.timeline.segments import COMPUTE, MESSAGE, SEND, WAIT
from blocklocal.timeline.visits import VisitRecorder


class LinkEdges:
    """Forward messages from the stage before and to the one behind; late target messages the other way.

    Args:
        processes: this process among the others.
        learners: all learners of the network; this process has `share` of them.
        share: the indices of the learners that are here.
        coming_back: for every link between two stages, whether late messages of a chained twin come back over it.
        depth: forward messages that may be under way on either side of a link.
        recorder: is told when this process waits, sends and computes.
    """

    def __init__(
        self,
        processes: Processes,
        learners: Sequence[BlockLearner],
        share: range,
        coming_back: Sequence[bool],
        *,
        depth: int,
        device: torch.device,
        recorder: Recorder | VisitRecorder,
    ):
        self.recorder = recorder
        links, here = processes.edge_groups(coming_back), processes.stage
        self._inbox = self._outbox = self._back_in = self._back_out = None
        if not processes.first:
            link = links.pop(0)
            self._inbox = Inbox(processes, link, depth, device, share.start)
            self._back_out = BackSender(processes, link) if coming_back[here - 1] else None
        if not processes.last:
            link = links.pop(0)
            self._outbox = Outbox(processes, link, depth, share.stop, partial(recorder.span, SEND))
            if coming_back[here]:
                behind = learners[share.stop].twin
                assert behind is not None
                assert behind.late is not None
                like = torch.empty(behind.message_shape, dtype=behind.late.dtype, device=device)
                self._back_in = BackReceiver(processes, link, like, len(behind.late))

    # --- one step

    def take_target(self, rows: Tensor, *, learning: bool) -> Tensor:
        if self._back_in is None:
            return rows
        if not learning:
            return self._back_in.peek()
        with self.recorder.span(MESSAGE):
            return self._back_in.take()

    def pass_target(self, late: Tensor | None) -> None:
        if self._back_out is not None and late is not None:
            self._back_out.send(late[-1])

    def take_forward(self, x: Input) -> Given:
        if self._inbox is None:
            return x
        with self.recorder.span(WAIT):
            return self._inbox.take()

    def send_forward(self, a: Forward) -> None:
        """Send it. A message in the memory of the received one (of a block that only reshapes) is copied first."""
        if self._outbox is not None:
            if isinstance(a, Tensor) and self._inbox is not None and self._inbox.holds(a):
                a = a.clone()
            self._outbox.send(a)

    def timed(self, index: int) -> AbstractContextManager[None]:
        return self.recorder.span(COMPUTE, index)

    # --- around the steps

    def begin(self, late: Tensor | None) -> None:
        """Before the first step: the late messages that training starts with."""
        if self._back_out is not None and late is not None:
            for message in late:
                self._back_out.send(message)

    def expect(self, sizes: Sequence[int], *, training: bool) -> None:
        """The batch sizes of the next messages, which are received ahead."""
        for box in (self._inbox, self._outbox):
            if box is not None:
                box.expect(sizes, training=training)
        if training:
            self.recorder.begin()
        else:
            self.recorder.pause()

    def announce(self, sizes: Sequence[int], *, training: bool) -> None:
        """Batches that came without `expect`: their messages are received when they are needed, not ahead."""
        for box in (self._inbox, self._outbox):
            if box is not None and not box.open:
                box.expect(sizes, training=training)

    def stopped(self) -> bool:
        """Whether the stage before has stopped; waits for its next message, or for its notice that none follows."""
        if self._inbox is None:
            return False
        with self.recorder.span(WAIT) if self._inbox.open else nullcontext():
            return self._inbox.peek().kind == STOP

    def losses(self, own: Sequence[float]) -> list[float]:
        """The latest known losses of all blocks up to here, given those of this process; they travel on from here."""
        before = [] if self._inbox is None else list(self._inbox.losses)
        if self._outbox is not None:
            self._outbox.losses = [*before, *own]
        return [*before, *own]

    def finish(self, *, stop: bool) -> None:
        """Hear that no message follows, and tell the next stage.

        Args:
            stop: because the user has asked for it.
        """
        self.recorder.pause()
        if self._inbox is not None:
            self._inbox.peek()  # also where nothing was to be trained: the stage before waits until it is heard
        if self._outbox is not None:
            self._outbox.finish(STOP if stop else END)
