"""Block-local learning, two blocks."""

import torch
from torch import Tensor

import blocklocal as bl
from peers.base import CLASSES, OPTIMIZER, Place, Task, Training, build_batch, build_model, channels_last

CUT = "block-local"  # its key in Task.cuts


def build_network(task: Task, device: torch.device, cut: str) -> bl.BlockLocal:
    """Two blocks, the second of which starts with the unit `cut`."""
    network = bl.BlockLocal(bl.split(build_model(task), at=[cut]), classes=CLASSES, optimizer=OPTIMIZER)
    channels_last(network, device)
    return network


def one_process(task: Task, place: Place) -> Training:
    network = build_network(task, place.device, task.cuts[CUT])
    x, y = build_batch(task, place.device, channels_last=True)

    def step() -> Tensor | None:
        last = network.step(x, y)[-1]
        return None if last is None else last.loss

    return Training(step)
