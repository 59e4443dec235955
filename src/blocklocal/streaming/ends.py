"""The edges of one block that takes one step by itself: what it gets is given, and what it sends is kept."""

from contextlib import AbstractContextManager, nullcontext

from torch import Tensor

from blocklocal._common.message import Forward, Given, Input
from blocklocal.block.edges import Edges


class Ends(Edges):
    """The edges of one block in one step.

    Args:
        a: the forward message that it gets.
        target: what its twin starts from.

    Attributes:
        sent: the forward message that it has sent.
    """

    def __init__(self, a: Given, target: Tensor):
        self._a, self._target = a, target
        self.sent: Forward | None = None

    def take_target(self, rows: Tensor, *, learning: bool) -> Tensor:
        return self._target

    def pass_target(self, late: Tensor | None) -> None: ...

    def take_forward(self, x: Input) -> Given:
        return self._a

    def send_forward(self, a: Forward) -> None:
        self.sent = a

    def timed(self, index: int) -> AbstractContextManager[None]:
        return nullcontext()
