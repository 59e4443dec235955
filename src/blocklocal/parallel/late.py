"""Late messages of a chained twin, from a stage to the one before it: of one shape, in order, one per step.

Whoever receives them is ahead, and reads in step t what was sent in step t − D; so never more than D + 1 are under way.
"""

from collections import deque
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from blocklocal.parallel.processes import Edge, Processes
from blocklocal.parallel.wire import begin, wait


class BackSender:
    """Late messages of a chained twin, to the stage before; it is ahead, so it soon takes what is sent."""

    def __init__(self, processes: Processes, edge: Edge):
        self.edge, self._timeout = edge, processes.message_timeout
        self._under_way: deque[tuple[Any, Tensor]] = deque()

    def send(self, message: Tensor) -> None:
        kept = message.contiguous()
        self._under_way.append((begin(dist.isend, kept, self.edge.source, self.edge.back), kept))
        while len(self._under_way) > 1 and self._under_way[0][0].is_completed():
            work, sent = self._under_way.popleft()
            wait(work, self.edge.source, self._timeout, sent)


class BackReceiver:
    """Late messages from the stage behind, all of one shape; the first `under_way` of them are on their way at once."""

    def __init__(self, processes: Processes, edge: Edge, like: Tensor, under_way: int):
        self.edge, self._timeout, self._like = edge, processes.message_timeout, like
        self._posted: deque[tuple[Tensor, Any]] = deque()
        for _ in range(under_way):
            self._post()

    def peek(self) -> Tensor:
        """The message of the next step, not taken."""
        buffer, work = self._posted[0]
        if work is not None:
            wait(work, self.edge.target, self._timeout, buffer)
            self._posted[0] = buffer, None
        return buffer

    def take(self) -> Tensor:
        message = self.peek()
        self._posted.popleft()
        self._post()
        return message

    def _post(self) -> None:
        buffer = torch.empty_like(self._like)
        self._posted.append((buffer, begin(dist.irecv, buffer, self.edge.target, self.edge.back)))
