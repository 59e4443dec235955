"""A trained network as it is looked at: evaluated, used to predict, exported. With --ema these are its mean weights."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch

from blocklocal.network.neighbours import Neighbours
from blocklocal.runs.config import Config
from blocklocal.training.checkpoint import load_checkpoint

ANY_STEPS = 100  # of a schedule that nobody takes a step of


def load_to_look(path: Path, network: Neighbours, config: Config) -> dict[str, Any]:
    """Load a checkpoint of a run into a network that is not to be trained.

    Returns:
        The saved state.

    Raises:
        InputError: as `load_checkpoint`.
    """
    o = config.optimisation
    if o.ema is None:
        return load_checkpoint(path, network, optimizers=False)
    network.configure(o.build(), o.build_schedule(), ANY_STEPS)  # means are kept with the optimisers
    with torch.random.fork_rng(devices=[]):
        state = load_checkpoint(path, network)
    network.keep_averages()
    return state


def looking(network: Neighbours) -> AbstractContextManager[None]:
    """Within it, a network that has been trained is as it is looked at."""
    return nullcontext() if network.optimizer.ema is None or network.averaging else network.averaged()
