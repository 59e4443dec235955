"""What is trained, evaluated and saved: a whole network, or the share of its blocks that one process has."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from blocklocal.block.learner import BlockLearner
from blocklocal.block.loss import LocalResult
from blocklocal.block.optim import Optimizer
from blocklocal.block.targets import Targets


class Trainable(Protocol):
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
    def units(self) -> list[BlockLearner]: ...

    @property
    def count(self) -> int:
        """Number of units of the whole network."""
        ...

    @property
    def device(self) -> torch.device: ...

    @property
    def optimizer(self) -> Optimizer: ...

    def materialize(self, example: Tensor) -> None: ...

    def configure(self, optimizer: Optimizer, schedule: Any = "constant", steps: int = 1) -> None: ...

    def train(self, mode: bool = True) -> Any: ...

    def step(self, x: Tensor, y: Tensor) -> list[LocalResult | None]: ...

    def block_logits(self, x: Tensor) -> list[Tensor | None]: ...

    def message_sizes(self) -> list[float | None]: ...


@contextmanager
def kept_mode(network: Trainable, *, after_failure: bool = False) -> Generator[None, None, None]:
    """Put back the mode of the network and of every part of it afterwards, each its own, also after an error.

    Parts that are made meanwhile get the mode of the network. after_failure: put back after an error alone.
    """
    mode, done = network.training, False
    modules = [network] if isinstance(network, nn.Module) else network.units
    modes = {part: part.training for module in modules for part in module.modules()}
    try:
        yield
        done = True
    finally:
        if not (done and after_failure):
            network.train(mode)
            for part, own in modes.items():
                part.training = own
