"""Block-local learning: in memory, and block by block."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

import blocklocal as bl
from blocklocal.block.learner import BlockLearner
from blocklocal.models.transformer import Transformer
from blocklocal.network.neighbours import Neighbours
from blocklocal.streaming.homes import FileHome, HostHome
from blocklocal.streaming.streamed import Streamed
from blocklocal.training.checkpoint_draft import Saved
from streaming_peers.base import OPTIMIZER, VOCABULARY, Batch, Bytes, Peer, Size, Task

# as the character-level language model of `blocklocal reproduce figure3` learns
LEARNING: dict[str, Any] = {"objective": "evidence", "family": "gaussian", "normalise": "units", "readout": 0}


def build(size: Size) -> bl.BlockLocal:
    torch.manual_seed(0)
    model = Transformer(
        VOCABULARY, size.length, width=size.width, blocks=size.layers, heads=size.heads, causal=True
    )  # fmt: skip
    example = torch.zeros(2, size.length, dtype=torch.long)
    cut = bl.split(model, size.layers, example=example)
    return bl.BlockLocal(cut, classes=VOCABULARY, optimizer=OPTIMIZER, example=example, **LEARNING)


class BlockLocalPeer(Peer):
    network: Neighbours

    def train(self, batches: list[Batch]) -> float:
        device, loss = self.network.device, float("nan")
        for stepped in self.network.walk((x.to(device), y.to(device)) for x, y in batches):
            last = stepped.results[-1]
            assert last is not None
            loss = float(last.loss)
            if stepped.whole:
                self.network.commit(lambda: {"step": self.network.steps})
        return loss

    def blocks(self, do: Callable[[Iterable[Tensor]], str]) -> list[str]:
        return self.network.each(lambda learner: do(tensor for _, tensor in sorted(learner.state_dict().items())))


class InMemory(BlockLocalPeer):
    def __init__(self, task: Task):
        super().__init__(task)
        self.network = build(task.size).to(task.device)


class Streaming(BlockLocalPeer):
    def __init__(self, task: Task):
        super().__init__(task)
        on_cpu = task.device == "cpu"
        count(FileHome if on_cpu else HostHome, self.moved)
        self.network = Streamed(
            lambda: build(task.size),
            visit=task.visit,
            store=f"{task.store}/blocks" if on_cpu else "ram",
            most=task.most,
            device=task.device,
        )


def count(home: type[FileHome] | type[HostHome], moved: Bytes) -> None:
    """Note in `moved` what goes to and comes from every home of this class from now on."""
    fetch, put = home.fetch, home.put

    def counted_fetch(self: Any, shape: BlockLearner, *, optimizer: bool = True) -> Saved:
        saved = fetch(self, shape, optimizer=optimizer)
        moved.weights_read += _bytes(shape.block.parameters())
        moved.all_read += _bytes(saved.weights.values()) + _bytes(_tensors(saved.optimizer))
        return saved

    def counted_put(self: Any, learner: BlockLearner) -> None:
        moved.weights_written += _bytes(learner.block.parameters())
        held = learner.optimizer.state_dict() if learner.optimizer else {}
        moved.all_written += _bytes(learner.state_dict().values()) + _bytes(_tensors(held))
        del held
        put(self, learner)

    home.fetch, home.put = counted_fetch, counted_put  # type: ignore[method-assign]


def _tensors(value: Any) -> Iterable[Tensor]:
    """All tensors in dictionaries of dictionaries."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _tensors(each)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)
