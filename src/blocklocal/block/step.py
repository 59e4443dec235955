"""What belongs to one training step of a block."""

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch.nn as nn
from torch import Tensor

from blocklocal._common.message import Forward, Given, map_message
from blocklocal.block.loss import LocalResult


@dataclass
class BlockPass:
    """A block's step between forward and update: its output with the graph, its cut-off input, its local loss."""

    output: Forward
    source: Given
    result: LocalResult | None

    def sent(self) -> Forward:
        """The forward message as the next block gets it: data, without a graph."""
        return map_message(Tensor.detach, self.output)


@dataclass(frozen=True)
class StepContext:
    """Where training stands: it names the random streams of a step (dropout) and the mixing weight m."""

    seed: int = 0
    step: int = 0
    mix: float = 1.0


class ForwardContext(nn.Module, ABC):
    """What a rule puts around a block while it learns (feedback alignment's fixed weights)."""

    @abstractmethod
    def context(self, block: nn.Module) -> AbstractContextManager: ...

    @abstractmethod
    def check(self, block: nn.Module, example: Given) -> None:
        """Raise InputError where this context cannot do for `block` what it promises. It may run the block."""
