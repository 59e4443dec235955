"""Backprop in pipeline stages with micro-batches: `torch.distributed.pipelining`.

Contiguous, not channels last: the stages exchange plain buffers.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe

import blocklocal as bl
from peers.base import OPTIMIZER, Place, Task, Training, build_batch, build_model, connect, loss_of

_SCHEDULES = {"GPipe": ScheduleGPipe, "1F1B": Schedule1F1B}
MICRO_BATCHES = (4, 8)


def cut_key(micro_batches: int) -> str:
    """The key in Task.cuts: the balance depends on the size of a micro-batch."""
    return f"{micro_batches} micro-batches"


def builder(schedule: str, micro_batches: int) -> Callable[[Task, Place], Training]:
    """What builds this schedule with so many micro-batches in one process."""
    return partial(_build, schedule=schedule, micro_batches=micro_batches)


def _build(task: Task, place: Place, schedule: str, micro_batches: int) -> Training:
    connect(place)
    blocks = bl.split(build_model(task), at=[task.cuts[cut_key(micro_batches)]]).blocks
    module = blocks[place.rank].to(place.device).train()
    optimizer = OPTIMIZER.build(module.parameters())
    stage = PipelineStage(module, place.rank, place.world, place.device)
    pipeline = _SCHEDULES[schedule](stage, micro_batches, loss_fn=loss_of)
    x, y = build_batch(task, place.device, channels_last=False)

    def step() -> Tensor | None:
        optimizer.zero_grad(set_to_none=True)
        losses: list[Tensor] = []
        if stage.is_first:
            pipeline.step(x)
        else:
            pipeline.step(target=y, losses=losses)
        optimizer.step()
        return torch.stack(losses).mean().detach() if losses else None

    return Training(step)
