"""A running mean of a block's weights (EMA), kept with the state of its optimiser, so that it is saved where that is.

The mean begins with the weights after the first update: w̄ ← decay · w̄ + (1 − decay) · w, as in torch's `AveragedModel`.
"""

from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn

AVERAGE = "ema"  # its name in the optimiser's state of a parameter


@torch.no_grad()
def follow(optimizer: torch.optim.Optimizer, decay: float) -> None:
    """After an update: move the means towards the weights. A parameter that has never had a gradient has no mean."""
    averages, weights = [], []
    for parameter in [p for group in optimizer.param_groups for p in group["params"]]:
        known = AVERAGE in optimizer.state.get(parameter, {})
        if known:
            averages.append(optimizer.state[parameter][AVERAGE])
            weights.append(parameter)
        elif parameter.grad is not None:
            optimizer.state[parameter][AVERAGE] = parameter.detach().clone()
    if averages:
        get_ema_multi_avg_fn(decay)(averages, weights, 0)


def swap(optimizer: torch.optim.Optimizer) -> None:
    """Weights and their means change places."""
    for parameter, state in optimizer.state.items():
        if AVERAGE in state:
            parameter.data, state[AVERAGE] = state[AVERAGE], parameter.data


@contextmanager
def averaged(optimizer: torch.optim.Optimizer | None) -> Generator[None]:
    """Within it, weights are their means."""
    if optimizer is None:
        yield
        return
    swap(optimizer)
    try:
        yield
    finally:
        swap(optimizer)
