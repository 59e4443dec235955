"""What a streamed run will need, before it runs: memory, room at home, bytes that are read and written.

Every formula stands here once, with the reason why. What goes into them is counted on a step without content
(`footprint`), so a plan costs seconds and no memory, whatever the size of the network.
"""

from dataclasses import dataclass

import torch

from blocklocal._common.errors import InputError
from blocklocal._common.limits import in_bytes
from blocklocal._common.message import Input, map_message
from blocklocal.block.factories import OptimizerFactory
from blocklocal.block.optim import Optimizer, as_optimizer
from blocklocal.network.network import BlockLocal
from blocklocal.streaming.footprint import footprints
from blocklocal.streaming.needs import Footprint, Footprints
from blocklocal.streaming.settings import Medium

MIB = 2**20
PROCESS = 500 * MIB  # of Python, torch and what a run loads; a third of it are files mapped from the disk
GPU_CONTEXT = 500 * MIB  # of CUDA itself


@dataclass(frozen=True)
class Plan:
    """A streamed run of a network: what its blocks need, and how they are to be visited.

    Attributes:
        needs: of every block, in bytes.
        visit: N, the steps that a block takes in a row.
        most: blocks in memory at a time, at most.
        cache: where the forward messages of N steps lie.
        home: where blocks rest: "files", or "ram".
        keep: complete chunks that stay in files.
        cuda: whether blocks compute on CUDA; else device and host share one memory.
        links: bytes of the messages from and to other processes that may be under way here.
    """

    needs: Footprints
    visit: int = 16
    most: int = 3
    cache: Medium = "ram"
    home: Medium = "files"
    cuda: bool = False
    keep: int = 1
    links: int = 0

    @property
    def blocks(self) -> list[Footprint]:
        return self.needs.blocks

    # --- what rests

    @property
    def weights(self) -> int:
        return sum(block.weights for block in self.blocks)

    @property
    def rests(self) -> int:
        """Weights and optimiser states of all blocks: gradients are dropped after every update."""
        return sum(block.rests for block in self.blocks)

    @property
    def at_home(self) -> int:
        """Of the place where blocks rest: in files the complete chunks that stay, and the one that is being written."""
        return self.rests * (self.keep + 1 if self.home == "files" else 1)

    @property
    def copies(self) -> str:
        """How often each block is in files, at most."""
        return "twice" if self.keep == 1 else f"{self.keep + 1} times"

    @property
    def on_disk(self) -> int:
        """What is written to files at most: the home and the cache, where they are files."""
        return self.at_home * (self.home == "files") + self.cache_bytes * (self.cache == "files")

    # --- the boundary cache

    @property
    def cache_bytes(self) -> int:
        """N places of the largest message that is cached: a place is free again when its message has been read."""
        return self.visit * max((block.sent for block in self.blocks[:-1]), default=0)

    def _cached(self, k: int) -> int:
        """Messages in memory beside what block k makes in a step: what it has not read yet, and what it has sent."""
        block, last = self.blocks[k], len(self.blocks) - 1
        got, sent = (block.received if k else 0), (block.sent if k < last else 0)
        if self.cache == "files":
            return got  # the one that is being read
        return max(self.visit * got, got + (self.visit - 1) * sent)

    # --- the device

    def computing(self, k: int) -> int:
        """Memory that block k takes in its visit: it rests there, and its steps make outputs, gradients and so on."""
        block = self.blocks[k]
        return block.rests + max(block.step, block.sent + block.check) + self._cached(k)

    def waiting(self, k: int) -> int:
        """Memory of the blocks that are fetched or written while block k computes: the largest that may be there."""
        others = [self.blocks[n] for n in (k - 2, k - 1, k + 1) if 0 <= n < len(self.blocks)]
        sizes = [max(block.rests, block.weights + block.check) for block in others]  # states come after the check
        return sum(sorted(sizes, reverse=True)[: self.most - 1])

    @property
    def common(self) -> int:
        """Whatever block computes: the N batches of a chunk with their targets, target rows, messages under way."""
        return self.visit * self.needs.batch + self.needs.rows + self.links

    @property
    def worst(self) -> int:
        """The block (from 0) in whose visit memory is fullest."""
        return max(range(len(self.blocks)), key=self._at)

    def _at(self, k: int) -> int:
        """A home in the host's memory holds the very tensors that a block on the CPU trains: they count once."""
        if self.home == "ram" and not self.cuda:
            return self.computing(k) + self.rests - self.blocks[k].rests
        return self.computing(k) + self.waiting(k)

    @property
    def peak(self) -> int:
        """On the device, at most, beside the process itself (`process`)."""
        return self._at(self.worst) + self.common

    @property
    def process(self) -> int:
        """Of the process before anything is made: about 500 MiB of code; on CUDA its context."""
        return GPU_CONTEXT if self.cuda else PROCESS

    # --- what is moved

    @property
    def moved(self) -> float:
        """Bytes per step that are read and written: every block comes and goes once in N steps, weights and states."""
        return 2 * self.rests / self.visit


def plan(
    network: BlockLocal,
    x: Input,
    optimizer: Optimizer | OptimizerFactory | None = None,
    *,
    visit: int = 16,
    most: int = 3,
    cache: Medium = "ram",
    home: Medium = "files",
    precision: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> Plan:
    """What a streamed run of a network will need.

    Args:
        network: on the meta device (or an ordinary one, which is not touched), with `example=` given.
        x: a batch [B, …] as training will have it; its content does not matter.
        optimizer: of every block; default, the network's own.
        visit, most, cache: as of `Streamed`.
        home: "files", or "ram".
        precision: of the blocks' operations (torch.bfloat16); None: as the parameters are.
        device: where blocks compute.

    Raises:
        InputError: the network does not know its shapes, does not run on x, or looks at values in a step.
    """
    if not network.learners:
        raise InputError("a plan needs the shapes of the network: give BlockLocal example=, a batch [B, …].")
    network.output_shape(
        map_message(lambda t: torch.zeros_like(t, device=network.device), x)
    )  # it runs on such a batch
    cuda = torch.device(device).type == "cuda"
    chosen = as_optimizer(network.optimizer if optimizer is None else optimizer)
    needs = footprints(network, x, chosen, precision=precision, cuda=cuda)
    return Plan(needs, visit, most, cache, home, cuda)


def check_room(plan: Plan, *, memory: int | None = None, disk: int | None = None) -> None:
    """Raise InputError, with sizes, where a run does not fit; before anything is written.

    Args:
        memory: bytes that are free on the device (on the CPU, `available_bytes()`); None: not known.
        disk: bytes that are free where blocks rest (`free_on_disk(folder)`); None: not known.
    """
    if memory is not None and plan.peak > memory:
        raise InputError(
            f"one block at a time needs {in_bytes(plan.peak)} of memory (block {plan.worst + 1} with everything, "
            f"{in_bytes(plan.computing(plan.worst))}; blocks that come and go, {in_bytes(plan.waiting(plan.worst))}; "
            f"batches, {in_bytes(plan.common)}), and {in_bytes(memory)} are free. {_remedy(plan)}"
        )
    if disk is not None and plan.on_disk > disk:
        parts = [(f"all blocks {plan.copies} while a chunk is written", plan.at_home)] if plan.home == "files" else []
        parts += [("messages between blocks", plan.cache_bytes)] if plan.cache == "files" else []
        named = ", ".join(f"{name} {in_bytes(size)}" for name, size in parts)
        raise InputError(
            f"the files of a streamed run need {in_bytes(plan.on_disk)} ({named}), and {in_bytes(disk)} are free "
            "there: free some space, give a folder on another disk, or a smaller visit."
        )


def _remedy(plan: Plan) -> str:
    if plan.most > 1:
        return "Give fewer blocks in memory at a time, more blocks, or a smaller batch."
    return "Give more blocks, a smaller visit, or a smaller batch."
