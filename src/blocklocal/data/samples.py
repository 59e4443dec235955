"""Samples of numbers in memory (rows of a table, series), three splits of them, and batches.

Shapes: N samples, S the shape of one of them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from blocklocal._common.errors import InputError
from blocklocal.data.answers import Answers
from blocklocal.data.epochs import Epochs
from blocklocal.data.features import Features
from blocklocal.data.order import Order

_DIGEST_BYTES = 16


@dataclass(frozen=True, eq=False)
class Samples:
    """One split.

    Attributes:
        x: float32 [N, S].
        labels: int64 [N], numbers of classes; or float32 [N, V], values.
        weights: how much every sample counts in training, float32 [N]; None: all the same.

    Raises:
        InputError: there is not one answer per sample.
    """

    x: Tensor
    labels: Tensor
    weights: Tensor | None = None

    def __post_init__(self) -> None:
        if len(self.x) != len(self.labels):
            raise InputError(f"{len(self.x)} samples have {len(self.labels)} answers: give one for each.")

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, index: Tensor | Sequence[int] | slice) -> Samples:
        """The samples at `index` (positions, a mask or a slice), in that order."""
        chosen = index if isinstance(index, (Tensor, slice)) else torch.as_tensor(list(index), dtype=torch.int64)
        return Samples(self.x[chosen], self.labels[chosen], None if self.weights is None else self.weights[chosen])


@dataclass(frozen=True, eq=False)
class SampleSet:
    """A whole data set, split and ready to train on.

    Attributes:
        validation: may have no samples.
        answers: what the samples are asked for.
        features: how a table's columns become numbers; None for series.
        account: one line per split, then what was made of the columns.
    """

    name: str
    train: Samples
    validation: Samples
    test: Samples
    answers: Answers
    features: Features | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    account: tuple[str, ...] = ()
    skipped: int = 0

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, or of the values."""
        return self.answers.names

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample."""
        return tuple(self.train.x.shape[1:])

    def fingerprint(self) -> dict[str, str]:
        """Name of a split → a digest (blake2b, hex) of its numbers and answers, and of what they mean."""
        facts = json.dumps([asdict(self.answers), self.features and asdict(self.features), self.mean, self.std])
        splits = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: _digest(each, facts) for name, each in splits.items()}


class SampleBatches(Epochs):
    """Epochs of (x, y): float32 [B, S], and int64 [B] or float32 [B, V]; or of (x, y, weights) where there are weights.

    The order depends on (seed, epoch) alone, as that of `Batches` does.

    Args:
        samples: one split.
        mean, std: per channel of samples [N, C, …], which are given as (x - mean) / std; () for as they are.
        share: see `Order`.

    Raises:
        InputError: there are no samples, or batches cannot be made so.
    """

    def __init__(
        self,
        samples: Samples,
        *,
        batch_size: int,
        mean: Sequence[float] = (),
        std: Sequence[float] = (),
        shuffle: bool = False,
        seed: int = 0,
        device: str | torch.device = "cpu",
        share: tuple[int, int] = (0, 1),
    ):
        if not isinstance(samples, Samples):
            given = type(samples).__name__
            raise InputError(f"SampleBatches takes the samples of one split, as data.train, not {given}.")
        if len(samples) == 0:
            raise InputError("there are no samples to make batches of. Give a split with at least one.")
        self.order = Order(len(samples), batch_size, shuffle, seed, share)
        self.x, self.labels = samples.x.to(device), samples.labels.to(device)
        self.weights = None if samples.weights is None else samples.weights.to(device)
        ones = (1,) * (self.x.dim() - 2)
        self.scale = [torch.tensor(each, device=device).view(-1, *ones) for each in (mean, std)] if len(mean) else []

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, ...]]:
        places = self.order.places(epoch, start).to(self.x.device)
        return (self._batch(self.order.part(places, step)) for step in range(start, len(self)))

    def _batch(self, index: Tensor) -> tuple[Tensor, ...]:
        x = self.x[index]
        if self.scale and x.numel():
            x = (x - self.scale[0]) / self.scale[1]
        return (x, self.labels[index]) if self.weights is None else (x, self.labels[index], self.weights[index])


def _digest(samples: Samples, facts: str) -> str:
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    digest.update(json.dumps([list(samples.x.shape), list(samples.labels.shape), facts]).encode())
    for each in (samples.x, samples.labels, *([] if samples.weights is None else [samples.weights])):
        digest.update(each.contiguous().cpu().numpy().reshape(-1).data)
    return digest.hexdigest()
