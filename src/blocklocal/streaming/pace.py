"""How fast this machine would run a plan: one real step of each kind of block, and the speed of the store."""

import os
import tempfile
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from blocklocal.block.step import StepContext
from blocklocal.rules.base import Batch, block_step
from blocklocal.streaming.footprint import learner_kind
from blocklocal.streaming.plan import Plan
from blocklocal.streaming.streamed import Streamed
from blocklocal.streaming.update_bytes import bytes_of
from blocklocal.training.checkpoint_draft import Draft, Saved
from blocklocal.training.checkpoint_files import Files
from blocklocal.training.learner_state import kinds

MIB = 2**20
MOST_SAMPLE = 64 * MIB  # bytes of the files that the store's speed is measured with


@dataclass(frozen=True)
class Pace:
    """Measured speeds.

    Attributes:
        steps: seconds of a step of every block.
        read, write: bytes per second of the store, checksums among them; infinite where nothing is moved.
    """

    steps: tuple[float, ...]
    read: float
    write: float

    def step_seconds(self, plan: Plan) -> float:
        """Predicted seconds per step of the whole network."""
        return self.chunk_seconds(plan) / plan.visit

    def chunk_seconds(self, plan: Plan) -> float:
        """Of N steps of all blocks.

        The first block is waited for, and so is the last one's way home; in between, as many things go on at the same
        time as blocks are in memory, and the longest of them counts.
        """
        computing = [plan.visit * seconds for seconds in self.steps]
        fetching = [block.rests / self.read for block in plan.blocks]
        writing = [block.rests / self.write for block in plan.blocks]
        if plan.most == 1:
            return sum(computing) + sum(fetching) + sum(writing)
        ahead, behind = [*fetching[1:], 0.0], [0.0, *writing[:-1]]
        beside = [a + b if plan.most == 2 else max(a, b) for a, b in zip(ahead, behind, strict=True)]
        return fetching[0] + sum(map(max, computing, beside)) + writing[-1]


def measure(network: Streamed, plan: Plan, x: Tensor, y: Tensor, folder: Path | None = None) -> Pace:
    """Take one step of each kind of block, and write and read two small files.

    Args:
        network: as it will be trained. Its blocks get the content of the start, one after the other, and are let go
            of; nothing is written into its home.
        x, y: a batch of training, on the network's device.
        folder: where blocks will rest; None for memory.

    Raises:
        InputError: as a training step.
    """
    read, write = (float("inf"), float("inf")) if folder is None else _store_speed(folder, plan)
    known: dict[Hashable, float] = {}
    steps = []
    like = torch.empty_like(x, device="meta")
    for k, shape in enumerate(network.learners):
        kind = (learner_kind(shape), like.shape, k == 0)
        if kind not in known:
            known[kind] = _step_seconds(network, k, x if k == 0 else _made_up(like, network.device), x, y)
        steps.append(known[kind])
        with torch.no_grad():
            like = shape(like)
    return Pace(tuple(steps), read, write)


def _step_seconds(network: Streamed, k: int, a: Tensor, x: Tensor, y: Tensor) -> float:
    """Of the second step; in the first one, kernels are chosen and memory is taken."""
    learner = network.stock.drawn(k).train()
    learner.configure(network.optimizer, "constant", 1)
    incoming, batch = _incoming(network, k), Batch(x, y, network.rows, StepContext())

    def step() -> None:
        block_step(learner, a, batch, learner.message(incoming)[0])

    with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []), torch.enable_grad():
        step()
        return _seconds(step, x.device)


def _incoming(network: Streamed, k: int) -> Tensor:
    """What the twin of block k starts from: the target rows, or a message such as a chained twin behind it sends."""
    behind = network.learners[k + 1].twin if k + 1 < network.count else None
    if behind is None or not behind.chained:
        return network.rows
    return _made_up(torch.empty(behind.message_shape, device="meta"), network.device)


def _made_up(like: Tensor, device: torch.device) -> Tensor:
    """A forward message: no step takes longer or shorter for its values."""
    return torch.rand(like.shape, dtype=like.dtype, device=device)


def _store_speed(folder: Path, plan: Plan) -> tuple[float, float]:
    """Bytes per second of (reading, writing) a block's files, with checksums, and flushed to the disk."""
    share = min(1.0, MOST_SAMPLE / max(1, plan.rests))
    weights, states = (torch.zeros(1 + int(share * size / 4)) for size in (plan.weights, plan.rests - plan.weights))
    saved = Saved(0, {"sample": weights}, {"optimizer": {"state": {0: {"sample": states}}}, "schedule": None})
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-speed-", dir=folder) as place:
        draft = Draft.open(Path(place), 0)
        writing = _seconds(lambda: draft.write_saved(saved))
        for file in draft.partial.iterdir():
            _forget(file)
        files = Files(draft.partial, draft.sums)

        def read() -> None:
            files.weights(0, kinds(saved.weights), set(saved.weights))
            files.optimizer(0)

        reading = _seconds(read)
    size = bytes_of([weights, states])
    return size / reading, size / writing


def _forget(path: Path) -> None:
    """Out of the memory in which the system keeps what was written, where it can be told to."""
    if hasattr(os, "posix_fadvise"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _seconds(action: Callable[[], object], device: torch.device | None = None) -> float:
    _wait(device)
    start = time.perf_counter()
    action()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device | None) -> None:
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)
