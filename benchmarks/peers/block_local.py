"""Block-local learning, two blocks."""

import torch
from torch import Tensor

import blocklocal as bl
from blocklocal.parallel import Address, Stage, join
from peers.base import (
    CLASSES,
    DECODER,
    LENGTH,
    OPTIMIZER,
    TOKENS,
    Place,
    Task,
    Training,
    build_batch,
    build_model,
    channels_last,
)

DELAY = 10  # steps after which the decoder's table goes to the first block
CUT = "block-local"  # its key in Task.cuts


def cut_network(task: Task, cut: str) -> bl.BlockLocal:
    """Two blocks, the second of which starts with the unit `cut`; no readout, so that what is compared is the cut."""
    parts = bl.split(build_model(task), at=[cut])
    if task.model == DECODER:
        example = torch.zeros(2, LENGTH, dtype=torch.long)
        return bl.BlockLocal(parts, tokens=TOKENS, optimizer=OPTIMIZER, readout=0, example=example, message_delay=DELAY)
    return bl.BlockLocal(parts, classes=CLASSES, optimizer=OPTIMIZER, readout=0)


def build_network(task: Task, device: torch.device, cut: str) -> bl.BlockLocal:
    """As `cut_network`, on the device and in the layout of training."""
    network = cut_network(task, cut)
    channels_last(network, device)
    return network


def one_process(task: Task, place: Place) -> Training:
    network = build_network(task, place.device, task.cuts[CUT])
    x, y = build_batch(task, place.device, channels_last=True)

    def step() -> Tensor | None:
        last = network.step(x, y)[-1]
        return None if last is None else last.loss

    return Training(step)


def two_processes(task: Task, place: Place) -> Training:
    """The same network and cut, a block in each process."""
    processes = join(Address(place.rank, place.world, file=place.store), device=place.device, watched=False)
    stage = Stage(build_network(task, place.device, task.cuts[CUT]), processes, (1, 1), device=place.device)
    stage.configure(OPTIMIZER)
    x, y = build_batch(task, place.device, channels_last=True)

    def step() -> Tensor | None:
        result = stage.step(x, y)[-1]
        return result.loss if processes.last and result is not None else None

    return Training(step, begin=lambda steps: stage.edges.expect([len(y)] * steps, training=True))
