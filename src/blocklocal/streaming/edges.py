"""The edges of a streamed block: the boundary cache, and what lies before and behind all blocks that are streamed."""

from contextlib import AbstractContextManager, nullcontext

from torch import Tensor

from blocklocal._common.message import Forward, Given, Input
from blocklocal.block.edges import Edges
from blocklocal.streaming.cache import Cache


class CacheEdges(Edges):
    """The edges of one block in one step of a chunk.

    Args:
        outer: what lies before the first of the blocks that are streamed here, and behind the last of them.
        step: of the chunk, counted from 0.
        first, last: whether it is the first, or the last, of these blocks.
        message: the target message, where a chained twin gives it; None: the target rows.
    """

    def __init__(self, outer: Edges, cache: Cache, step: int, *, first: bool, last: bool, message: Tensor | None):
        self.outer, self.cache, self.step, self.message = outer, cache, step, message
        self.first, self.last = first, last

    def take_target(self, rows: Tensor, *, learning: bool) -> Tensor:
        return rows if self.message is None else self.message

    def pass_target(self, late: Tensor | None) -> None:
        """Nothing: the block's late messages rest with it."""

    def take_forward(self, x: Input) -> Given:
        return self.outer.take_forward(x) if self.first else self.cache.take(self.step)

    def send_forward(self, a: Forward) -> None:
        if self.last:
            self.outer.send_forward(a)
        else:
            self.cache.put(self.step, a)

    def timed(self, index: int) -> AbstractContextManager[None]:
        return nullcontext()  # the whole step is timed
