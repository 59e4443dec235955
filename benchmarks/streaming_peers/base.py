"""What the peers of `streaming.py` have in common: the decoder, the text, and what a peer is."""

import hashlib
import platform
import sysconfig
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import blocklocal as bl
from blocklocal.models.transformer import Embedding, Layer

VOCABULARY = 256  # bytes
OPTIMIZER = bl.adamw(1e-4)
Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Size:
    """A causal decoder of `layers` layers, and a batch of samples × length tokens."""

    layers: int
    width: int
    heads: int
    samples: int
    length: int


@dataclass(frozen=True)
class Task:
    """What a process trains. visit: N; store: a folder that is the process's own; most: blocks in memory at a time."""

    size: Size
    store: str
    visit: int = 16
    most: int = 2
    device: str = "cpu"


@dataclass
class Bytes:
    """What was moved between memory and store. weights: of the model alone; all: with optimiser states and twins."""

    weights_read: int = 0
    weights_written: int = 0
    all_read: int = 0
    all_written: int = 0


@dataclass
class Peer(ABC):
    """A way to train. moved: what it has moved so far."""

    task: Task
    moved: Bytes = field(default_factory=Bytes)

    @abstractmethod
    def train(self, batches: list[Batch]) -> float:
        """Take one step per batch; the loss of the last step."""

    @abstractmethod
    def blocks(self, do: Callable[[Iterable[Tensor]], str]) -> list[str]:
        """What `do` gives of the tensors of every block."""

    def digest(self) -> str:
        """A hash of all weights, which is equal for equal weights alone."""
        return hashlib.sha256("".join(self.blocks(_digest)).encode()).hexdigest()[:16]


def _digest(tensors: Iterable[Tensor]) -> str:
    summed = hashlib.sha256()
    for tensor in tensors:
        summed.update(memoryview(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()))
    return summed.hexdigest()


def units(size: Size) -> Iterator[nn.Module]:
    """The units of `Transformer`, with its first weights, made one at a time."""
    torch.manual_seed(0)
    embedding = Embedding(VOCABULARY, size.length, size.width)
    for k in range(size.layers):
        parts: list[nn.Module] = [embedding] if k == 0 else []
        parts.append(Layer(size.width, size.heads, causal=True, dropout=0.0))
        if k == size.layers - 1:
            parts += [nn.LayerNorm(size.width), nn.Linear(size.width, VOCABULARY)]
        yield nn.Sequential(*parts)


def loss_of(logits: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), y.flatten())


@cache
def text() -> tuple[Tensor, str]:
    """(a text as bytes, uint8; what it is): the sources of Python's standard library, which every machine has."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    content = b"".join(file.read_bytes() for file in files)
    words = f"{len(files)} modules of Python {platform.python_version()}'s standard library, {len(content):,} bytes, "
    words += f"SHA-256 {hashlib.sha256(content).hexdigest()[:16]}"
    return torch.frombuffer(bytearray(content), dtype=torch.uint8), words


def batch(size: Size, step: int) -> Batch:
    """Of one step: x and y, int64 [samples, length]; y is the next byte of every place."""
    all_bytes, _ = text()
    places = torch.randint(len(all_bytes) - size.length, (size.samples,), generator=torch.Generator().manual_seed(step))
    rows = torch.stack([all_bytes[p : p + size.length + 1] for p in places.tolist()]).long()
    return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()
