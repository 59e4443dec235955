"""What the methods of `parallel.py` have in common: the task, a process's place in it, and what a method is."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

import blocklocal as bl
from blocklocal.models.decoder import Decoder

CLASSES = 10
SHAPE = (3, 32, 32)
DECODER, TOKENS, LENGTH, LAYERS = "decoder", 4096, 64, 12
OPTIMIZER = bl.sgd(0.01, weight_decay=5e-4)
_TIMEOUT = timedelta(seconds=120)  # one dead process must not hold the other for long


@dataclass(frozen=True)
class Task:
    """What every method trains: a CIFAR-style model, or a decoder, on one batch of noise.

    cuts: by whom it is asked for (a key of its method), the unit with which the second half starts.
    """

    model: str
    width: int
    batch: int
    device: str
    cuts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Place:
    """One process of a method: its rank among `world`, its device, and the file through which they meet."""

    rank: int
    world: int
    device: torch.device
    store: str


def _nothing(*_: object) -> None:
    pass


@dataclass(frozen=True)
class Training:
    """A method in one of its processes.

    step: one training step; returns the loss (detached, on the device) where this process knows it, else None.
    begin: told how many steps follow, before the first of them.
    finish: waits for what they may have left under way (messages not yet sent), after the last of them.
    """

    step: Callable[[], Tensor | None]
    begin: Callable[[int], None] = _nothing
    finish: Callable[[], None] = _nothing


@dataclass(frozen=True)
class Method:
    """A way to train, as `processes` processes of `threads` threads each.

    build: called in every process; where they talk to each other it connects them first (`connect`).
    linked: the processes talk to each other, so a link between them matters.
    batches: how many batches one step of all processes together trains on.
    like, within: the method whose loss after warm-up this one must have, to within this relative difference.
    """

    name: str
    build: Callable[[Task, Place], Training]
    processes: int = 1
    threads: int = 1
    linked: bool = False
    batches: int = 1
    like: str | None = None
    within: float = 0.0


def connect(place: Place) -> None:
    """Join the processes of a method into torch.distributed's default group."""
    backend = "nccl" if place.device.type == "cuda" else "gloo"
    dist.init_process_group(backend, f"file://{place.store}", rank=place.rank, world_size=place.world, timeout=_TIMEOUT)


def build_model(task: Task) -> nn.Module:
    """The same model with the same weights in every process, on the CPU."""
    torch.manual_seed(0)
    if task.model == DECODER:
        return Decoder(TOKENS, LENGTH, width=task.width, layers=LAYERS)
    return bl.build_model(task.model, classes=CLASSES, channels=SHAPE[0], image_size=SHAPE[1:], width=task.width)


def loss_of(output: Tensor, y: Tensor) -> Tensor:
    """The mean cross-entropy of logits [B, C] or [B, T, C]."""
    return F.cross_entropy(output.flatten(0, -2), y.flatten())


def channels_last(model: nn.Module, device: torch.device) -> nn.Module:
    """The model on its device, in training mode, laid out as convolutions like it best."""
    return model.to(device).to(memory_format=torch.channels_last).train()  # pyrefly: ignore


def build_batch(task: Task, device: torch.device | str, *, channels_last: bool) -> tuple[Tensor, Tensor]:
    """The same images [B, 3, 32, 32] and targets [B] in every process; of a decoder tokens, both [B, T]."""
    generator = torch.Generator().manual_seed(1)
    if task.model == DECODER:
        x, y = torch.randint(0, TOKENS, (2, task.batch, LENGTH), generator=generator)
        return x.to(device), y.to(device)
    x = torch.randn(task.batch, *SHAPE, generator=generator)
    y = torch.randint(0, CLASSES, (task.batch,), generator=generator)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return x.to(device).contiguous(memory_format=layout), y.to(device)
