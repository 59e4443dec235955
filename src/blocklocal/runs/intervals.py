"""Intervals around the values that a run predicts: fitted on its validation part, kept in `intervals.json`."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from blocklocal._common.errors import InputError
from blocklocal._common.files import is_there
from blocklocal._common.modes import kept_modes
from blocklocal.block.gaussian_values import GaussianValues
from blocklocal.block.targets import combined, values_of
from blocklocal.block.values import Values
from blocklocal.exits.kept import read_fitted
from blocklocal.network.edge import Loaded, pair
from blocklocal.network.network import BlockLocal
from blocklocal.network.prediction import Prediction, Temperatures
from blocklocal.runs.checkpoints import check_fitted_for
from blocklocal.uncertainty.coverages import COVERAGES, place_of, too_few
from blocklocal.uncertainty.intervals import ConformalIntervals, conformal_intervals

INTERVALS = "intervals.json"


@dataclass(frozen=True)
class ValueCalibration:
    """How good the values of one block are, or those of all together; None where no variance is predicted.

    Attributes:
        temperature: by which variances are multiplied: the mean of (y - m)²/v.
        rmse: in the values' own units, the mean over them.
        nll: nats per value; at temperature 1 `nll_before`.
        inside: percent of the values in the central 90 % of their Gaussian; at temperature 1 `inside_before`.
    """

    rmse: float
    temperature: float | None = None
    nll_before: float | None = None
    nll: float | None = None
    inside_before: float | None = None
    inside: float | None = None


@dataclass(frozen=True)
class RunIntervals:
    """As `intervals.json` holds them.

    Attributes:
        checkpoint: the name of the one that they were fitted for.
        samples: how many values they were fitted on, of the one that is known least often.
        own: of every block, None where it does not predict.
        together: of all of them.
        limits: of every coverage of `COVERAGES` the half widths of the values, in standard deviations where these are
            predicted; None where there were too few samples.

    Raises:
        InputError: half widths are missing.
    """

    checkpoint: str
    samples: int
    own: list[ValueCalibration | None]
    together: ValueCalibration | None
    limits: list[list[float | None]]
    written_by: str = ""

    def __post_init__(self) -> None:
        if len(self.limits) != len(COVERAGES) or len({len(each) for each in self.limits}) != 1:
            raise InputError("these intervals are damaged: calibrate the run again.")

    @property
    def temperatures(self) -> Temperatures:
        """Of every block and of all together; 1 where no variance is predicted."""
        *blocks, together = [(each and each.temperature) or 1.0 for each in (*self.own, self.together)]
        return Temperatures(tuple(blocks), together)

    def at(self, coverage: float) -> ConformalIntervals:
        """The intervals of a coverage.

        Raises:
            InputError: they are not there for this coverage, or there were too few samples for it.
        """
        limits = self.limits[place_of(coverage)]
        known = [limit for limit in limits if limit is not None]
        if len(known) < len(limits):
            raise too_few(self.samples, coverage)
        return ConformalIntervals(coverage, torch.tensor(known, dtype=torch.float64))


def fit_run_intervals(network: BlockLocal, batches: Iterable[Loaded], checkpoint: str) -> RunIntervals:
    """Fit temperatures of variances, and the intervals of the output, on a validation set.

    Args:
        checkpoint: the name of what the network was loaded from.

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
    return RunIntervals(checkpoint, int((~y.isnan()).sum(0).min()), own, together, limits)


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
    temperature = ((said.values - y).square() / said.variance).nanmean().clamp(min=1e-12).item()
    before, after = (targets.figures(targets.sums(logits / t, y)) for t in (1.0, temperature))
    return ValueCalibration(
        rmse=after["rmse"],
        temperature=temperature,
        nll_before=before["gaussian_nll"],
        nll=after["gaussian_nll"],
        inside_before=before["inside90"],
        inside=after["inside90"],
    )


def std_of(said: Prediction) -> Tensor:
    """The standard deviations that are predicted; 1 where none are."""
    return said.variance.sqrt() if isinstance(said.targets, GaussianValues) else torch.ones_like(said.values)


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


def intervals_of(run: Path) -> RunIntervals:
    """The content of `intervals.json`.

    Raises:
        InputError: it is damaged.
    """
    return read_fitted(run / INTERVALS, RunIntervals)
