"""Batches whose gradients are added up before the blocks update."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def with_updates(batches: Iterable[T], every: int) -> Iterator[tuple[T, bool]]:
    """(batch, whether the blocks update after it): after every so many of them, and after the last one.

    With more than 1, the batch after the present one is asked for already.
    """
    if every == 1:
        yield from ((batch, True) for batch in batches)
        return
    waiting: list[T] = []
    count = 0
    for coming in batches:
        if waiting:
            count += 1
            yield waiting.pop(), count % every == 0
        waiting.append(coming)
    if waiting:
        yield waiting.pop(), True
