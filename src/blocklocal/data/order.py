"""Which samples are in which batch of which epoch: a shuffle that depends on seed and epoch alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from blocklocal._common.errors import InputError
from blocklocal._common.ranges import FROM_ONE, check_range
from blocklocal._common.seeds import generator


@dataclass(frozen=True)
class Order:
    """The order of `count` samples in batches.

    The last, smaller batch is kept. Only when shuffling, a last batch of a single sample is dropped (BatchNorm cannot
    use it; another sample each epoch) unless it is the only batch.

    Attributes:
        share: (i, n): the i-th of n equal parts of every batch, i from 0; up to n - 1 samples of the last batch are
            left out.

    Raises:
        InputError: batches cannot be made so.
    """

    count: int
    batch_size: int
    shuffle: bool = False
    seed: int = 0
    share: tuple[int, int] = (0, 1)

    def __post_init__(self) -> None:
        check_range("batch_size", self.batch_size, FROM_ONE)
        if self.batch_size % self.share[1]:
            raise InputError(
                f"batches of {self.batch_size} images cannot be shared equally by {self.share[1]} processes."
            )

    def __len__(self) -> int:
        """Steps per epoch."""
        full, rest = divmod(self.count, self.batch_size)
        rest //= self.share[1]
        drop = self.shuffle and rest == 1 and full > 0
        return full + (rest > 0 and not drop)

    def sizes(self, start: int = 0) -> list[int]:
        """Samples in the batches of an epoch from step `start` on."""
        each = self.batch_size // self.share[1]
        left = (self.count - i * self.batch_size for i in range(start, len(self)))
        return [min(each, size // self.share[1]) for size in left]

    def places(self, epoch: int, start: int = 0) -> Tensor:
        """int64 [count], the samples of an epoch in their order.

        Raises:
            InputError: the epoch does not have the step `start`.
        """
        if epoch < 0 or not 0 <= start <= len(self):
            raise InputError(f"epoch {epoch}, step {start}: epochs count from 0 and have steps 0 to {len(self)} here.")
        if not self.shuffle:
            return torch.arange(self.count)
        return torch.randperm(self.count, generator=generator("order", self.seed, epoch))

    def part(self, places: Tensor, step: int) -> Tensor:
        """Those of this share in the batch of a step."""
        index = places[step * self.batch_size : (step + 1) * self.batch_size]
        each = len(index) // self.share[1]
        return index[self.share[0] * each : (self.share[0] + 1) * each]
