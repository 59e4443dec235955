"""Intervals around the values that a run predicts, fitted on its validation part."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from blocklocal._common.errors import InputError
from blocklocal._common.files import is_there
from blocklocal._common.modes import kept_modes
from blocklocal.block.gaussian_values import GaussianValues, z_score
from blocklocal.block.targets import combined, values_of
from blocklocal.block.values import Values
from blocklocal.exits.intervals import INTERVALS, RunIntervals, ValueCalibration, intervals_of, std_of
from blocklocal.network.edge import Loaded, pair
from blocklocal.network.network import BlockLocal
from blocklocal.network.prediction import Prediction
from blocklocal.runs.checkpoints import check_fitted_for
from blocklocal.uncertainty.coverages import COVERAGES
from blocklocal.uncertainty.intervals import ConformalIntervals, conformal_intervals


def fit_run_intervals(
    network: BlockLocal, batches: Iterable[Loaded], checkpoint: str, blocks: list[str], values: list[str]
) -> RunIntervals:
    """Fit temperatures of variances, and the intervals of the output, on a validation set.

    Args:
        checkpoint: the name of what the network was loaded from.
        blocks, values: their names.

    Raises:
        InputError: no value is known.
    """
    targets = network.targets
    assert isinstance(targets, Values)
    collected: list[list[Tensor | None]] = []
    wanted: list[Tensor] = []
    with kept_modes([network]), torch.no_grad():
        network.eval()
        for x, y in map(pair, batches):
            scores = network.block_logits(x)
            logits = [None if each is None else targets.as_logits(each) for each in scores]
            collected.append([_flat(each) for each in (*logits, combined(targets, scores))])
            wanted.append(values_of(targets.asked(y)).flatten(0, -2).cpu())
    if not wanted or not bool((~torch.cat(wanted).isnan()).any(0).all()):
        raise InputError("there is nothing to fit intervals on: a value is not known in any validation sample.")
    y = torch.cat(wanted)
    columns = [_joined(column) for column in zip(*collected, strict=True)]
    *own, together = [None if each is None else _calibration(targets, each, y) for each in columns]
    output, last = columns[-2], own[-1]
    assert output is not None
    assert last is not None
    said = Prediction(targets.probabilities(output / (last.temperature or 1.0)), targets)
    fitted = [conformal_intervals(said.values, y, coverage, std_of(said)).limits.tolist() for coverage in COVERAGES]
    limits = [[None if limit == math.inf else limit for limit in each] for each in fitted]
    return RunIntervals(checkpoint, int((~y.isnan()).sum(0).min()), blocks, values, own, together, limits)


def _flat(logits: Tensor | None) -> Tensor | None:
    """Positions one by one, [N, …]."""
    return None if logits is None else logits.flatten(0, -2).float().cpu()


def _joined(column: Sequence[Tensor | None]) -> Tensor | None:
    known = [each for each in column if each is not None]
    return torch.cat(known) if known else None


def _calibration(targets: Values, logits: Tensor, y: Tensor) -> ValueCalibration:
    if not isinstance(targets, GaussianValues):
        return ValueCalibration(targets.figures(targets.sums(logits, y))["rmse"])
    said = Prediction(targets.probabilities(logits), targets)
    if not bool(logits.isfinite().all()):
        raise InputError("a block predicts no finite numbers: its training diverged. Train again, with a smaller --lr.")
    distance = (said.values - y).abs() / said.variance.sqrt()  # in deviations
    temperature = distance.square().nanmean().clamp(min=1e-12).item()
    before, after = (targets.figures(targets.sums(logits / t, y)) for t in (1.0, temperature))
    return ValueCalibration(
        rmse=after["rmse"],
        temperature=temperature,
        nll_before=before["gaussian_nll"],
        nll=after["gaussian_nll"],
        shares_before=_shares(distance),
        shares=_shares(distance / temperature**0.5),
    )


def _shares(distance: Tensor) -> list[float]:
    """Percent of the values in the central part of their Gaussian that holds each of `COVERAGES`; the mean over values.

    Args:
        distance: from the means, in deviations [N, V]; NaN where a value is not known.
    """
    known = (~distance.isnan()).sum(0)
    return [100 * ((distance <= z_score(coverage)).sum(0) / known).mean().item() for coverage in COVERAGES]


def kept_intervals(run: Path, coverage: float, checkpoint: str | None = None) -> ConformalIntervals:
    """The intervals of a coverage, fitted for a checkpoint of a run; default: the newest.

    Raises:
        InputError: there is no `intervals.json`, or it is of another checkpoint; as `RunIntervals.at`.
    """
    if not is_there(run / INTERVALS):
        raise InputError(
            f"{run} has no intervals yet: blocklocal calibrate {run} fits them, for a run that predicts values."
        )
    kept = intervals_of(run)
    check_fitted_for(run, kept.checkpoint, checkpoint, "intervals")
    return kept.at(coverage)
