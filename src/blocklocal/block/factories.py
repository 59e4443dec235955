"""Functions of the user's own that make an optimiser or a schedule of a block: what they may give."""

import inspect
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.optim import lr_scheduler

from blocklocal._common.errors import InputError, first_line, shown

OptimizerFactory: TypeAlias = Callable[[list[Any]], torch.optim.Optimizer]
"""A `torch.optim` class, a `functools.partial` of one, or any function from a block's parameters to an optimiser."""
ScheduleFactory: TypeAlias = Callable[[torch.optim.Optimizer, int], lr_scheduler.LRScheduler]
"""A function from a block's optimiser and the number of training steps to a scheduler, which steps once per step."""


def made_optimizer(
    factory: OptimizerFactory, given: list[Any], parameters: list[nn.Parameter]
) -> torch.optim.Optimizer:
    """The optimiser that a user's function makes.

    Args:
        factory: the function.
        given: what it is called with: the parameters, or groups of them.
        parameters: the block's own, which it must train.

    Raises:
        InputError: it fails, or gives no optimiser that a block can use.
    """
    try:
        made = factory(given)
    except Exception as error:  # a user's own function may fail in any way
        raise InputError(f"the optimiser of a block could not be built: {_reason(error)}") from error
    if not isinstance(made, torch.optim.Optimizer):
        raise InputError(
            f"optimizer made {shown(made)} of a block's parameters, and must make a torch.optim.Optimizer."
        )
    own = {id(p) for p in parameters}
    held = {id(p) for group in made.param_groups for p in group["params"]}
    if not held or not held <= own:
        raise InputError(
            f"optimizer made a {type(made).__name__} of other parameters than the block's: build it of the list "
            "that it is called with, as in lambda parameters: torch.optim.SGD(parameters, lr=0.1)."
        )
    if _needs(made.step, "closure"):
        raise InputError(
            f"{type(made).__name__} runs the network anew within a step (a closure), which a block's step does not: "
            "give another optimiser."
        )
    return made


def made_schedule(factory: ScheduleFactory, optimizer: torch.optim.Optimizer, steps: int) -> lr_scheduler.LRScheduler:
    """The schedule that a user's function makes of a block's optimiser.

    Raises:
        InputError: it fails, or gives no schedule of this optimiser.
    """
    try:
        made = factory(optimizer, steps)
    except Exception as error:  # a user's own function may fail in any way
        raise InputError(
            f"the schedule of a block could not be built: {_reason(error)}. schedule must be a function of the "
            "optimiser and the number of steps, as in lambda optimizer, steps: "
            "torch.optim.lr_scheduler.StepLR(optimizer, 10)."
        ) from error
    if not isinstance(made, lr_scheduler.LRScheduler) or made.optimizer is not optimizer:
        raise InputError(f"schedule made {shown(made)}, and must make a torch scheduler of the optimiser it is given.")
    if _needs(made.step, "metrics"):
        raise InputError(
            f"{type(made).__name__} looks at a measurement at every step, and a schedule here is a function of the "
            "step alone: give another one."
        )
    return made


def _reason(error: Exception) -> str:
    """What went wrong; the kind too of an error whose words alone say little, as `KeyError: 'a'`."""
    plain = isinstance(error, TypeError | ValueError)
    return first_line(error) if plain else f"{type(error).__name__}: {first_line(error)}"


def _needs(function: Callable[..., Any], argument: str) -> bool:
    """Whether a function cannot be called without that argument."""
    found = inspect.signature(function).parameters.get(argument)
    return found is not None and found.default is inspect.Parameter.empty
