"""Batches of sequences with one target per position: the reversal task of the paper, and windows over a text.

Shapes: N sequences, B of them in a batch, T positions, L characters of a text.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from blocklocal._common.errors import InputError
from blocklocal._common.ranges import FROM_ONE, check_range
from blocklocal._common.seeds import generator

DIGITS = 10
POSSIBLE = 3_628_800  # permutations of the ten digits


class SequenceBatches:
    """Epochs of (x, y), int64 [B, T]. The order depends on (seed, epoch) alone; the last, smaller batch is kept.

    Args:
        x, y: int64 [N, T].

    Raises:
        InputError: x and y have different shapes, or hold nothing.
    """

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        *,
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
        device: str | torch.device = "cpu",
    ):
        check_range("batch_size", batch_size, FROM_ONE)
        if x.shape != y.shape or x.dim() != 2 or len(x) == 0:
            raise InputError(
                f"sequences {list(x.shape)} with targets {list(y.shape)}: give both as [N, T], at least one sequence "
                "and one target per position."
            )
        self.x, self.y = x.to(device), y.to(device)
        self.batch_size, self.shuffle, self.seed = batch_size, shuffle, seed
        self.next_epoch = 0

    def __len__(self) -> int:
        """Steps per epoch."""
        return -(-len(self.x) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Epoch `next_epoch`, which counts up from 0 with every iteration begun."""
        self.next_epoch += 1
        order = self._order(self.next_epoch - 1).to(self.x.device)
        return ((self.x[index], self.y[index]) for index in order.split(self.batch_size))

    def _order(self, epoch: int) -> Tensor:
        if not self.shuffle:
            return torch.arange(len(self.x))
        return torch.randperm(len(self.x), generator=generator("order", self.seed, epoch))


def permutations(count: int, seed: int = 0) -> Tensor:
    """`count` random permutations of the digits 0–9, all different: int64 [count, 10].

    Raises:
        InputError: there are not so many.
    """
    check_range("count", count, FROM_ONE)
    if count > POSSIBLE // 2:
        raise InputError(f"{count} different permutations of ten digits were asked for: give at most {POSSIBLE // 2}.")
    draw, found = generator("permutations", seed), {}
    while len(found) < count:
        row = torch.randperm(DIGITS, generator=draw)
        found.setdefault(tuple(row.tolist()), row)
    return torch.stack(list(found.values()))


def reversal(
    x_NT: Tensor, *, batch_size: int, shuffle: bool = False, seed: int = 0, device: str | torch.device = "cpu"
):
    """The paper's task (§4.2): the digits of `x_NT`, and as targets the same digits from last to first."""
    return SequenceBatches(x_NT, x_NT.flip(1), batch_size=batch_size, shuffle=shuffle, seed=seed, device=device)


class RandomWindows:
    """Epochs of (x, y), int64 [B, T]: windows at random places of a text, and the character after each position.

    Where the windows lie depends on (seed, epoch) alone.

    Args:
        text_L: int64 [L].
        length: T, characters per window.
        steps: batches of an epoch.

    Raises:
        InputError: the text has T characters or less.
    """

    def __init__(
        self,
        text_L: Tensor,
        *,
        length: int,
        batch_size: int,
        steps: int,
        seed: int = 0,
        device: str | torch.device = "cpu",
    ):
        for name, size in (("length", length), ("batch_size", batch_size), ("steps", steps)):
            check_range(name, size, FROM_ONE)
        _check_long_enough(text_L, length)
        self.text, self.length, self.batch_size = text_L.to(device), length, batch_size
        self.steps, self.seed = steps, seed
        self.next_epoch = 0

    def __len__(self) -> int:
        """Steps per epoch."""
        return self.steps

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Epoch `next_epoch`, which counts up from 0 with every iteration begun."""
        self.next_epoch += 1
        return self._batches(generator("order", self.seed, self.next_epoch - 1))

    def _batches(self, draw: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        places = len(self.text) - self.length
        for _ in range(self.steps):
            yield windows(self.text, torch.randint(places, (self.batch_size,), generator=draw), self.length)


def windows(text_L: Tensor, starts_B: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """The characters from each start on [B, length], and those one further on [B, length]."""
    places = starts_B.to(text_L.device).unsqueeze(1) + torch.arange(length + 1, device=text_L.device)
    found = text_L[places]
    return found[:, :-1], found[:, 1:]


def spread_windows(
    text_L: Tensor, *, length: int, count: int, batch_size: int, device: str | torch.device = "cpu"
) -> SequenceBatches:
    """At most `count` windows of `length` characters that do not overlap, spread evenly over a text: always the same.

    Every position counts, the first ones of a window with little before them.
    """
    check_range("count", count, FROM_ONE)
    _check_long_enough(text_L, length)
    count = min(count, (len(text_L) - 1) // length)
    starts = torch.arange(count) * ((len(text_L) - 1) // count)
    return SequenceBatches(*windows(text_L, starts, length), batch_size=batch_size, device=device)


def _check_long_enough(text_L: Tensor, length: int) -> None:
    if text_L.dim() != 1 or len(text_L) <= length:
        raise InputError(
            f"windows of {length} characters need a text of at least {length + 1}, not {list(text_L.shape)}: "
            "give more text, or shorter windows."
        )
