"""What is trained, evaluated and saved: a whole network, or the share of its blocks that one process has."""

from typing import Any, Protocol

import torch
from torch import Tensor

from blocklocal.local import LocalResult
from blocklocal.optim import Optimizer
from blocklocal.targets import Targets
from blocklocal.unit import BlockUnit


class Learner(Protocol):
    """A `BlockLocal` network, or a `parallel.Stage`; `units` are neighbours and know their `index` in the network."""

    targets: Targets
    training: bool
    steps: int
    epoch: int

    @property
    def shares(self) -> int:
        """Processes that each train on a part of every batch."""
        ...

    @property
    def units(self) -> list[BlockUnit]: ...

    @property
    def count(self) -> int:
        """Number of units of the whole network."""
        ...

    @property
    def device(self) -> torch.device: ...

    @property
    def optimizer(self) -> Optimizer: ...

    def materialize(self, example: Tensor) -> None: ...

    def configure(self, optimizer: Optimizer, schedule: str = "constant", steps: int = 1) -> None: ...

    def train(self, mode: bool = True) -> Any: ...

    def step(self, x: Tensor, y: Tensor) -> list[LocalResult | None]: ...

    def block_logits(self, x: Tensor) -> list[Tensor | None]: ...

    def message_sizes(self) -> list[float | None]: ...
