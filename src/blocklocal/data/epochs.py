"""Batches of a split that are made anew in every epoch, in an order that can be named."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

from blocklocal.data.order import Order


class Epochs(ABC):
    """Epochs of (x, y) batches, or of (x, y, weights).

    Attributes:
        order: which samples are in which batch.
        next_epoch: the epoch that the next iteration gives, from 0.
    """

    order: Order
    next_epoch = 0

    def __len__(self) -> int:
        """Steps per epoch."""
        return len(self.order)

    def sizes(self, start: int = 0) -> list[int]:
        """Inputs in the batches of an epoch from step `start` on: samples, or views of them."""
        return self.order.sizes(start)

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        """Epoch `next_epoch`, which counts up from 0 with every iteration begun."""
        self.next_epoch += 1
        return self.epoch(self.next_epoch - 1)

    @abstractmethod
    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Any, ...]]:
        """The batches of one epoch from step `start` on.

        Raises:
            InputError: the epoch does not have this step.
        """
