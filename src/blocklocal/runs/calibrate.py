"""A run's probabilities, variances, exits and intervals, fitted on its validation part and kept in its folder."""

from pathlib import Path

from blocklocal._common.errors import InputError
from blocklocal._common.files import is_there
from blocklocal.block.values import Values
from blocklocal.exits import FittedExits, check_exits, fit_exits
from blocklocal.network.network import BlockLocal
from blocklocal.network.prediction import Temperatures
from blocklocal.runs.checkpoints import checkpoint_to_look
from blocklocal.runs.exits import EXITS, RunExits, exits_of, save_exits
from blocklocal.runs.intervals import INTERVALS, RunIntervals, fit_run_intervals, intervals_of, save_intervals
from blocklocal.runs.looking import load_network
from blocklocal.runs.sets import evaluation_batches, load_data
from blocklocal.runs.train import block_names


def calibrate_run(
    run: Path, *, checkpoint: str | None = None, device: str = "auto", trust: bool = False
) -> tuple[FittedExits | RunIntervals, list[str]]:
    """Fit what a run says of its own answers on its validation part, and write it to its folder.

    Returns:
        The exits of a run that gives probabilities, or the intervals of one that predicts values; and the names of the
        blocks.

    Raises:
        InputError: the run has no validation part, or predicts what has neither.
    """
    config, facts, network = load_network(run, checkpoint, device, trust=trust)
    if not config.data.validation:
        raise InputError(
            f"the run {run} has no validation part, on which exits are fitted: train it with --validation above 0. "
            "What is fitted on test data is not measured by them."
        )
    assert isinstance(network, BlockLocal)
    values = isinstance(network.targets, Values)
    if not values:
        check_exits(network)  # before a set is loaded
    data, names = load_data(config, run), block_names(network)
    batches = evaluation_batches(config, data.validation, facts, network.device)
    name = checkpoint_to_look(run, checkpoint).name
    if values:
        intervals = fit_run_intervals(network, batches, name)
        save_intervals(run, intervals)
        return intervals, names
    exits = fit_exits(network, batches)
    save_exits(run, RunExits(name, exits))
    return exits, names


def run_temperatures(run: Path, checkpoint: str | None = None) -> Temperatures | None:
    """The temperatures that a run was calibrated with; None where it was not, or for another checkpoint."""
    now = checkpoint_to_look(run, checkpoint).name
    if is_there(run / EXITS):
        kept = exits_of(run)
        return kept.exits.temperatures if kept.checkpoint == now else None
    if is_there(run / INTERVALS):
        intervals = intervals_of(run)
        return intervals.temperatures if intervals.checkpoint == now else None
    return None
