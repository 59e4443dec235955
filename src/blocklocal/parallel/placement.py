"""Which blocks go into which process: neighbours together, balanced by the measured time of their steps."""

import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

from torch import Tensor

from blocklocal._common.message import Input
from blocklocal.block.edges import Open
from blocklocal.block.step import StepContext
from blocklocal.network.network import BlockLocal
from blocklocal.rules.base import Batch, local_step
from blocklocal.splitting.costs import synchronize
from blocklocal.splitting.partition import partition

REPEATS = 3


@dataclass(frozen=True)
class Placement:
    """Which blocks every stage has.

    Attributes:
        sizes: number of blocks of every stage.
        seconds: of a step of every block, as measured.
    """

    sizes: tuple[int, ...]
    seconds: tuple[float, ...]

    def stage_seconds(self) -> list[float]:
        """Seconds of a step of every stage."""
        ends = [sum(self.sizes[: s + 1]) for s in range(len(self.sizes))]
        return [sum(self.seconds[end - size : end]) for size, end in zip(self.sizes, ends, strict=True)]

    @property
    def speedup(self) -> float:
        """Predicted speed-up over one process with as many threads: all blocks' time over that of the slowest stage."""
        return sum(self.seconds) / max(self.stage_seconds())

    def summary(self) -> str:
        """`2 processes: blocks 1–2 (48 %), block 3 (52 %); predicted 1.92 × the speed of one`."""
        parts, first, total = [], 1, sum(self.seconds)
        for size, seconds in zip(self.sizes, self.stage_seconds(), strict=True):
            parts.append(f"{block_range(first, size)} ({100 * seconds / total:.0f} %)")
            first += size
        return f"{len(self.sizes)} processes: {', '.join(parts)}; predicted {self.speedup:.2f} × the speed of one"


def block_range(first: int, size: int) -> str:
    """`block 3`, `blocks 1–2`; counted from 1."""
    return f"block {first}" if size == 1 else f"blocks {first}–{first + size - 1}"


def place(seconds: Sequence[float], stages: int) -> Placement:
    """The placement whose slowest stage is as fast as possible."""
    return Placement(tuple(partition(seconds, stages)), tuple(seconds))


def step_seconds(network: BlockLocal, x: Input, y: Tensor) -> list[float]:
    """Seconds of a training step of every block (median of a few). It trains the network: give a copy."""
    network.train()
    network.configure(network.optimizer)  # a copy's optimisers must hold the copy's parameters
    times: list[list[float]] = [[] for _ in network.learners]

    @contextmanager
    def timed(index: int) -> Generator[None]:
        synchronize(x)
        start = time.perf_counter()
        yield
        synchronize(x)
        times[index].append(time.perf_counter() - start)

    for repeat in range(REPEATS + 1):
        local_step(network.learners, Batch(x, y, network.rows, StepContext(network.seed, repeat), Open(timed)))
    return [median(each[1:]) for each in times]  # the first step also allocates
