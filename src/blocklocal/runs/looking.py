"""A trained network as it is looked at: evaluated, used to predict, exported.

With --keep best it is that of the best epoch; with --ema its weights are their running means.
"""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch

from blocklocal._common.errors import InputError
from blocklocal.network.neighbours import Neighbours
from blocklocal.runs.config import Config
from blocklocal.training.checkpoint import load_checkpoint
from blocklocal.training.checkpoint_folder import list_checkpoints

BEST = "best"  # the folder in a run
ANY_STEPS = 100  # of a schedule that nobody takes a step of


def check_watched(config: Config) -> None:
    """Raise InputError where the best epoch is asked for, and there is no validation to tell."""
    if config.data.validation == 0 and (config.machine.keep == "best" or config.optimisation.patience is not None):
        asked = "--keep best" if config.machine.keep == "best" else "--patience"
        raise InputError(f"{asked} looks at the accuracy on validation images: give --validation more than 0.")


def best_of(folder: Path) -> Path | None:
    """The checkpoint of the best epoch of the run in `folder`, where it keeps one."""
    kept = list_checkpoints(folder / BEST)
    return kept[-1] if kept else None


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
