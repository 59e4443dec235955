"""A trained network as it is looked at: evaluated, used to predict, exported.

With --keep best it is that of the best epoch; with --ema its weights are their running means.
"""

import logging
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch

from blocklocal._common.errors import InputError
from blocklocal.network.neighbours import Neighbours
from blocklocal.network.network import BlockLocal
from blocklocal.runs.build import build_network, build_streamed
from blocklocal.runs.checkpoints import checkpoint_to_look
from blocklocal.runs.config import Config
from blocklocal.runs.facts import DatasetInfo
from blocklocal.runs.machine import find_device
from blocklocal.runs.origin import edited_settings, open_settings
from blocklocal.runs.saved import load_cuts, load_facts
from blocklocal.streaming.settings import Streaming
from blocklocal.streaming.streamed import Streamed
from blocklocal.training.checkpoint import load_checkpoint

log = logging.getLogger("blocklocal")
ANY_STEPS = 100  # of a schedule that nobody takes a step of


def check_watched(config: Config) -> None:
    """Raise InputError where the best epoch is asked for, and there is no validation to tell."""
    if config.data.validation == 0 and (config.machine.keep == "best" or config.optimisation.patience is not None):
        asked = "--keep best" if config.machine.keep == "best" else "--patience"
        raise InputError(f"{asked} looks at the accuracy on validation images: give --validation more than 0.")


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


def load_network(
    folder: Path,
    checkpoint: str | None = None,
    device: str | None = None,
    *,
    trust: bool = False,
    visit: int | None = None,
) -> tuple[Config, DatasetInfo, BlockLocal | Streamed]:
    """A run's trained network, without its data set. With `trust` the code of a user's own model may run."""
    config, facts = open_settings(folder, trust=trust), load_facts(folder)
    edited = edited_settings(folder)
    if edited:
        log.warning("%s is not looked at as it was trained: %s", folder, "; ".join(edited))
    network, _ = built_to_look(config, facts, folder, checkpoint_to_look(folder, checkpoint), device, visit)
    return config, facts, network


def built_to_look(
    config: Config, facts: DatasetInfo, folder: Path, checkpoint: Path, device: str | None, visit: int | None
) -> tuple[BlockLocal | Streamed, dict[str, Any]]:
    """The network of the run in `folder` with what a checkpoint holds, and the checkpoint's state.

    Args:
        device: None for the run's own.
        visit: batches that a block takes in a row, where one at a time is in memory; None: all of them are.
    """
    where, starts = find_device(device or config.machine.device), load_cuts(folder)
    if visit is None:
        network: BlockLocal | Streamed = build_network(config, facts, where, starts)
    else:
        network = build_streamed(config, facts, where, starts, Streaming(visit), checkpoint.parent, trains=False)
    return network, load_to_look(checkpoint, network, config)
