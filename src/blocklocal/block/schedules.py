"""Learning-rate schedules: a name or a function, from which every block makes its own."""

import math
from typing import TypeAlias

import torch
from torch.optim import lr_scheduler

from blocklocal._common.choices import ScheduleName, values
from blocklocal._common.errors import InputError, unknown
from blocklocal._common.ranges import FROM_ONE, Range, check_range
from blocklocal.block.factories import ScheduleFactory, made_schedule

SCHEDULES = values(ScheduleName)
WARMUP = 0.05
WARMUPS = Range(0, 1, above=True, below=True)
Schedule: TypeAlias = ScheduleName | ScheduleFactory


def as_schedule(given: Schedule) -> Schedule:
    """A name of `SCHEDULES` or a factory, as it is.

    Raises:
        InputError: it is neither.
    """
    if isinstance(given, lr_scheduler.LRScheduler):
        raise InputError(
            "schedule is a ready scheduler, and every block builds its own: give a function such as "
            "lambda optimizer, steps: torch.optim.lr_scheduler.StepLR(optimizer, 10)."
        )
    if not callable(given) and given not in SCHEDULES:
        raise unknown("schedule", given, SCHEDULES)
    return given


def build_schedule(schedule: Schedule | str, optimizer: torch.optim.Optimizer, steps: int) -> lr_scheduler.LRScheduler:
    """A per-step schedule of `steps` steps over the optimiser's own learning rate.

    Args:
        schedule: one-cycle: torch's OneCycleLR (it cycles momentum, or Adam's first beta, between 0.85 and 0.95 too; an
            SGD without momentum stays without); cosine: to 0; warmup-cosine: `warmup_cosine()`; constant; or a factory.
        optimizer: one block's.
        steps: training steps in all.

    Raises:
        InputError: the name is unknown, steps is below 1, or the factory fails or gives no scheduler of this optimiser.
    """
    check_range("steps", steps, FROM_ONE)
    if callable(schedule):
        return made_schedule(schedule, optimizer, steps)
    if schedule == "one-cycle":
        group = optimizer.param_groups[0]
        cycles = group.get("momentum") != 0 and not {"momentum", "betas"}.isdisjoint(group)
        # torch would give momentum to an SGD that was asked to have none, and fails where there is none to cycle
        rates = [each["lr"] for each in optimizer.param_groups]
        return lr_scheduler.OneCycleLR(optimizer, max_lr=rates, total_steps=steps, cycle_momentum=cycles)
    if schedule == "cosine":
        return lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    if schedule == "warmup-cosine":
        return warmup_cosine()(optimizer, steps)
    if schedule == "constant":
        return lr_scheduler.ConstantLR(optimizer, factor=1.0, total_iters=0)
    raise unknown("schedule", schedule, SCHEDULES)


def warmup_cosine(warmup: float = WARMUP) -> ScheduleFactory:
    """A schedule that rises in a straight line to the optimiser's learning rate, and falls to 0 as half a cosine.

    Args:
        warmup: share of the steps in which it rises, at least one step; between 0 and 1.

    Raises:
        InputError: warmup lies outside its range.
    """
    check_range("warmup", warmup, WARMUPS)

    def made(optimizer: torch.optim.Optimizer, steps: int) -> lr_scheduler.LRScheduler:
        rising = max(1, round(warmup * steps))

        def share(step: int) -> float:
            if step < rising:
                return (step + 1) / rising
            return (1 + math.cos(math.pi * (step - rising + 1) / max(1, steps - rising + 1))) / 2

        return lr_scheduler.LambdaLR(optimizer, share)

    return made
