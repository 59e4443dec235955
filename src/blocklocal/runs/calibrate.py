"""A run's probabilities, variances, exits and intervals, fitted on its validation part and kept in its folder."""

import logging
from pathlib import Path

from blocklocal._common.errors import InputError
from blocklocal._common.files import is_there
from blocklocal.block.targets import Classes, Values
from blocklocal.data import ImageSet
from blocklocal.exits import FittedExits, check_exits, fit_exits
from blocklocal.exits.intervals import INTERVALS, RunIntervals, intervals_of
from blocklocal.exits.kept import EXITS, ExitExample, RunExits, exits_of, save_fitted
from blocklocal.network.exits import Exits
from blocklocal.network.network import BlockLocal
from blocklocal.network.prediction import Temperatures
from blocklocal.runs.checkpoints import checkpoint_to_look
from blocklocal.runs.conclude import only_shows
from blocklocal.runs.examples import LOOK_AT, png
from blocklocal.runs.facts import DatasetInfo
from blocklocal.runs.intervals import fit_run_intervals
from blocklocal.runs.looking import load_network
from blocklocal.runs.sets import evaluation_batches, load_data, normalise
from blocklocal.runs.train import block_names

log = logging.getLogger("blocklocal")
BUDGET, EACH = 0.5, 4  # of the examples: under which budget, and how many leave early and late


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
            f"the run {run} has no validation part, on which it is calibrated: train it with --validation above 0. "
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
        intervals = fit_run_intervals(network, batches, name, names, list(facts.classes))
        save_fitted(run / INTERVALS, intervals)
        _report(run)
        return intervals, names
    exits = fit_exits(network, batches)
    examples, budget = (), None
    if isinstance(data, ImageSet) and any(exits.own[:-1]) and isinstance(network.targets, Classes):
        budget = max(BUDGET, min(setting.cost for way in exits.settings for setting in way))
        examples = _examples(network, data, facts, exits.for_budget(budget).exits)
    save_fitted(run / EXITS, RunExits(name, exits, tuple(names), examples, budget))
    _report(run)
    return exits, names


def _report(run: Path) -> None:
    with only_shows("the report", run):
        from blocklocal.report import write_report

        write_report(run)


def _examples(network: BlockLocal, data: ImageSet, facts: DatasetInfo, exits: Exits) -> tuple[ExitExample, ...]:
    """Validation images: the surest of those that leave first, and the least sure of those that leave last."""
    shown = data.validation.subset(slice(0, LOOK_AT))
    pixels = shown.read()
    said = network.predict(normalise(pixels, facts).to(network.device), exits)
    block, sure, label = said.block.cpu(), said.confidence.cpu(), said.label.cpu()
    early = [i for i in sure.argsort(descending=True).tolist() if block[i] == block.min()][:EACH]
    late = [i for i in sure.argsort().tolist() if block[i] == block.max() and i not in early][:EACH]
    return tuple(
        ExitExample(png(pixels[i]), facts.classes[int(shown.labels[i])], facts.classes[int(label[i])], int(block[i]))
        for i in (*early, *late)
    )


def run_temperatures(run: Path, checkpoint: str | None = None) -> Temperatures | None:
    """The temperatures that a run was calibrated with; None where it was not, or for another checkpoint.

    A warning says so where it was calibrated for another one.
    """
    kept: RunExits | RunIntervals
    if is_there(run / EXITS):
        kept, found = (exits := exits_of(run)), exits.exits.temperatures
    elif is_there(run / INTERVALS):
        kept, found = (intervals := intervals_of(run)), intervals.temperatures
    else:
        return None
    now = checkpoint_to_look(run, checkpoint).name
    if kept.checkpoint != now:
        log.warning("%s was calibrated for %s, and %s is used now: nothing is calibrated.", run, kept.checkpoint, now)
        return None
    return found
