"""Tokens: the next one of a text at every position. Classes, of which there are thousands, measured in bits."""

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, stack

from blocklocal._common.errors import InputError
from blocklocal.block.classes import Classes
from blocklocal.block.target import MISSING, Asked, check_shape


@dataclass(frozen=True)
class Tokens(Classes):
    """The next token at every position, [B, T], one of `count`; `MISSING` (-100) where none is asked for.

    Attributes:
        bytes_per_token: how many bytes of text a token stands for in the mean, for the bits per byte; None where
            that is not known.

    Raises:
        InputError: bytes_per_token is not a finite number above 0.
    """

    bytes_per_token: float | None = None

    measures: ClassVar[tuple[str, ...]] = ("perplexity", "bits_per_byte", "top1")
    large: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        size = self.bytes_per_token
        if size is not None and not (math.isfinite(size) and size > 0):
            raise InputError(f"bytes_per_token must be a finite number above 0, not {size}.")

    def sums(self, logits: Tensor, target: Asked) -> Tensor:
        """[right, all, nats]: how many are right, how many there are, and the sum of -log p(target)."""
        wanted = self.hard(self.asked(target))
        check_shape(wanted, logits.shape[:-1])
        there, logits = wanted != MISSING, logits.float()
        own = logits.gather(-1, wanted.clamp(min=0).unsqueeze(-1)).squeeze(-1)
        right = (own == logits.amax(-1)) & there
        nats = ((logits.logsumexp(-1) - own) * there).sum()
        return stack([right.sum().double(), there.sum().double(), nats.double()])

    def figures(self, sums: Tensor) -> dict[str, float]:
        """Perplexity per token, bits per byte of text where its bytes are known, and percent right."""
        right, count, nats = sums.tolist()
        mean = nats / max(count, 1)
        found = {"perplexity": math.exp(min(mean, 700.0))}
        if self.bytes_per_token is not None:
            found["bits_per_byte"] = mean / math.log(2) / self.bytes_per_token
        return {**found, "top1": 100.0 * right / max(count, 1)}
