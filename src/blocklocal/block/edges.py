"""What lies at the two edges of a run of neighbouring block learners.

A learner needs two things: a forward message a_{k−1} from before it, and a target message from behind it. The edges say
where the first learner's forward message and the last learner's target message come from, and take what the learners
give away: the last one's forward message, and the first one's target message. So the learners of one run step alike
whether they are a whole network (`Open`), or the share of one process (`parallel.link_edges`).

All walks keep one partial order of pairs (block k, step t): (k − 1, t) before (k, t), and (k, t − 1) before (k, t).
Edges may therefore deliver early or late, but never another step's message.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from torch import Tensor

from blocklocal._common.message import Forward, Given, Input


class Edges(Protocol):
    """Takes and gives the messages of a step, in the order of these methods. All of it is data, without a graph."""

    def take_target(self, rows: Tensor, *, learning: bool) -> Tensor:
        """What the last learner's twin starts from.

        Args:
            rows: the one-hot target rows [R, R], for a run whose last block is the network's.
            learning: whether it is for a training step; else the newest message that is there.

        Returns:
            The target message [R, …].
        """
        ...

    def pass_target(self, late: Tensor | None) -> None:
        """Give the first learner's late target message to the run before.

        Args:
            late: the messages of a chained twin that are due, [delay, R, …]; None where it has none.
        """
        ...

    def take_forward(self, x: Input) -> Given:
        """The forward message that the first learner reads, [B, …].

        Args:
            x: the network's input [B, …], for a run whose first block is the network's.
        """
        ...

    def send_forward(self, a: Forward) -> None:
        """Give the last learner's forward message a [B, …] to the run behind, before that learner learns."""
        ...

    def timed(self, index: int) -> AbstractContextManager[None]:
        """The context in which the learner of that index in the network takes its step."""
        ...


def untimed(index: int) -> AbstractContextManager[None]:
    return nullcontext()


class Open:
    """Nothing lies before and behind: a whole network, whose batch and target rows are given."""

    def __init__(self, timed: Callable[[int], AbstractContextManager[None]] = untimed):
        self._timed = timed

    def take_target(self, rows: Tensor, *, learning: bool) -> Tensor:
        return rows

    def pass_target(self, late: Tensor | None) -> None:
        pass

    def take_forward(self, x: Input) -> Given:
        return x

    def send_forward(self, a: Forward) -> None:
        pass

    def timed(self, index: int) -> AbstractContextManager[None]:
        return self._timed(index)


OPEN = Open()
