"""What stands for a value that a block never reads: a tensor of the right shape that takes no memory.

Two runs on batches of other sizes tell which sizes are those of the batch and of the sequence; at run time they are
read off the hidden state that has come in.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from blocklocal.splitting.tape import Leaf

Shapes = tuple[tuple[int, ...], tuple[int, ...]]
"""Of one tensor in both runs."""


@dataclass(frozen=True)
class Size:
    """A number that is `factor` times the size of the hidden state's dimension `of`; of -1: the factor itself."""

    factor: int
    of: int = -1

    def at(self, hidden: Tensor) -> int:
        return self.factor if self.of < 0 else self.factor * hidden.shape[self.of]


def size(one: int, other: int, hidden: Shapes) -> Size:
    """The number that was `one` in the first run and `other` in the second."""
    if one == other:
        return Size(one)
    for dimension, (a, b) in enumerate(zip(*hidden, strict=True)):
        if a != b and one % a == 0 and one // a * b == other:
            return Size(one // a, dimension)
    return Size(one)


@dataclass(frozen=True)
class Blank:
    """A tensor whose values do not matter."""

    sizes: tuple[Size, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, shapes: Shapes, dtype: torch.dtype, hidden: Shapes) -> "Blank":
        return cls(tuple(size(a, b, hidden) for a, b in zip(*shapes, strict=True)), dtype)

    def make(self, hidden: Tensor) -> Tensor:
        return torch.zeros((), dtype=self.dtype, device=hidden.device).expand([s.at(hidden) for s in self.sizes])


@dataclass(frozen=True)
class Carried:
    """A tensor that comes in the message.

    Attributes:
        place: the number of its storage.
        same: whether it is the tensor in the message itself, and no other view of it.
    """

    place: int
    sizes: tuple[Size, ...]
    same: bool

    def make(self, hidden: Tensor, values: dict[int, Tensor]) -> Tensor:
        value = values[self.place]
        return value if self.same else value.reshape([s.at(hidden) for s in self.sizes])


_PLAIN = (bool, int, float, complex, str, type(None), torch.dtype, torch.device, torch.Size, slice)


def stand_in(one: Any, other: Any, carried: dict[int, Leaf], hidden: Shapes) -> Any:
    """What stands for a value that was `one` in the first run and `other` in the second.

    Args:
        carried: by storage, the tensor that the message holds.
    """
    if isinstance(one, Leaf):
        shapes = (one.shape, other.shape)
        sent = carried.get(one.place)
        if sent is not None and (sent.shape == one.shape or (sent.whole and one.whole and sent.size == one.size)):
            sizes = tuple(size(a, b, hidden) for a, b in zip(*shapes, strict=True))
            return Carried(one.place, sizes, sent.shape == one.shape)
        return Blank.of(shapes, one.dtype, hidden)
    if isinstance(one, int) and not isinstance(one, bool) and isinstance(other, int):
        return size(one, other, hidden)
    return one if isinstance(one, _PLAIN) else None


def made(leaves: Sequence[Any], hidden: Tensor, values: dict[int, Tensor]) -> list[Any]:
    """The values themselves."""
    return [_made(leaf, hidden, values) for leaf in leaves]


def _made(leaf: Any, hidden: Tensor, values: dict[int, Tensor]) -> Any:
    if isinstance(leaf, Carried):
        return leaf.make(hidden, values)
    if isinstance(leaf, Blank):
        return leaf.make(hidden)
    return leaf.at(hidden) if isinstance(leaf, Size) else leaf
