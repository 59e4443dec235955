"""Batches of windows over a text: the tokens of a window, and at every position the one that follows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from blocklocal._common.errors import InputError
from blocklocal._common.seeds import generator
from blocklocal.block.target import MISSING
from blocklocal.data.epochs import Epochs
from blocklocal.data.order import Order
from blocklocal.data.text_set import TextPart


class WindowBatches(Epochs):
    """Epochs of (x, y), int64 [B, T]: y is x one token further on.

    Windows do not overlap. Shuffled, they begin at another place in every epoch, so that a token has
    another past each time; order and place depend on (seed, epoch) alone. Windows run on over the ends of documents, so
    a document that begins within one sees what was before it. Where a text asks and answers, y is -100 at all tokens
    but those of the answers.

    Args:
        text: one part.
        share: see `Order`.

    Raises:
        InputError: there is no window, or batches cannot be made so.
    """

    def __init__(
        self,
        text: TextPart,
        *,
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
        device: str | torch.device = "cpu",
        share: tuple[int, int] = (0, 1),
    ):
        if not isinstance(text, TextPart):
            raise InputError(f"WindowBatches takes one part of a text, as data.train, not {type(text).__name__}.")
        if not len(text):
            raise InputError(f"there is no window of {text.length} tokens to make batches of. Give more text.")
        self.order = Order(len(text), batch_size, shuffle, seed, share)
        self.text, self.device = text, torch.device(device)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        places, first = self.order.places(epoch, start), self._first(epoch)
        return (self._batch(first, self.order.part(places, step)) for step in range(start, len(self)))

    def _first(self, epoch: int) -> int:
        """Where the first window begins: somewhere in what the last one leaves over."""
        length = self.text.length
        spare = min(len(self.text.tokens) - 1 - (len(self.text) - 1) * self.text.stride - length, length - 1)
        if not self.order.shuffle or not spare:
            return 0
        return int(torch.randint(spare + 1, (), generator=generator("windows", self.order.seed, epoch)))

    def _batch(self, first: int, index: Tensor) -> tuple[Tensor, Tensor]:
        starts = first + index.numpy() * self.text.stride
        found = self._rows(self.text.tokens, starts)
        x, y = found[:, :-1], found[:, 1:]
        if self.text.asked is not None:
            y = y.masked_fill(self._rows(self.text.asked, starts)[:, 1:] == 0, MISSING)
        return x.contiguous().to(self.device), y.contiguous().to(self.device)

    def _rows(self, values: np.ndarray, starts: np.ndarray) -> Tensor:
        """int64 [B, T + 1], from each start on."""
        size = self.text.length + 1
        rows = np.stack([values[start : start + size] for start in starts]) if len(starts) else []
        return torch.from_numpy(np.asarray(rows, dtype=np.int64).reshape(len(starts), size))
