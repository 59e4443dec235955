"""Backprop with the whole network in memory."""

from collections.abc import Callable, Iterable

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from streaming_peers.base import OPTIMIZER, Batch, Peer, Task, loss_of, units


class Backprop(Peer):
    def __init__(self, task: Task):
        super().__init__(task)
        self.model = nn.Sequential(*units(task.size)).to(task.device)
        self.optimizer = OPTIMIZER.build(self.model.parameters())

    def train(self, batches: list[Batch]) -> float:
        loss = float("nan")
        for x, y in batches:
            loss = self._gradients(x.to(self.task.device), y.to(self.task.device))
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        return loss

    def _gradients(self, x: Tensor, y: Tensor) -> float:
        loss = loss_of(self.model(x), y)
        loss.backward()
        return loss.item()

    def blocks(self, do: Callable[[Iterable[Tensor]], str]) -> list[str]:
        return [do(unit.parameters()) for unit in self.model]


class Checkpointed(Backprop):
    """Every layer is run again in the backward pass, and gradients are summed over batches of one sample.

    The fair one: it needs the least memory of what keeps the whole network.
    """

    def _gradients(self, x: Tensor, y: Tensor) -> float:
        total = 0.0
        for one, target in zip(x.split(1), y.split(1), strict=True):
            a = one
            for unit in self.model:
                a = checkpoint(unit, a, use_reentrant=False, preserve_rng_state=False)
            loss = loss_of(a, target) / len(x)
            loss.backward()
            total += loss.item()
        return total
