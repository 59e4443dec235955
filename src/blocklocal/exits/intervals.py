"""Intervals around the values that a run predicts, as its folder keeps them in `intervals.json`."""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from blocklocal._common.errors import InputError
from blocklocal.block.gaussian_values import GaussianValues
from blocklocal.exits.kept import read_fitted
from blocklocal.network.prediction import Prediction, Temperatures
from blocklocal.uncertainty.coverages import COVERAGES, place_of, too_few
from blocklocal.uncertainty.intervals import ConformalIntervals

INTERVALS = "intervals.json"
SHOWN = place_of(0.9)  # the coverage that tables show


def damaged() -> InputError:
    """What is said of figures that cannot be."""
    return InputError("these intervals are damaged: calibrate the run again.")


@dataclass(frozen=True)
class ValueCalibration:
    """How good the values of one block are, or those of all together; all but rmse None where no variance is predicted.

    Attributes:
        rmse: in the values' own units, the mean over them.
        temperature: by which variances are multiplied: the mean of (y - m)²/v.
        nll: nats per value; at temperature 1 `nll_before`.
        shares: of every coverage of `COVERAGES` the percent of the values that are in this central part of their
            Gaussian; at temperature 1 `shares_before`.
    """

    rmse: float
    temperature: float | None = None
    nll_before: float | None = None
    nll: float | None = None
    shares_before: list[float] | None = None
    shares: list[float] | None = None

    def __post_init__(self) -> None:
        curves = [each for each in (self.shares_before, self.shares) if each is not None]
        figures = [self.temperature, self.nll_before, self.nll]
        there = [each is not None for each in (*figures, self.shares_before, self.shares)]
        numbers = [self.rmse, *(each for each in figures if each is not None), *(x for each in curves for x in each)]
        whole = all(there) or not any(there)
        if not whole or any(len(each) != len(COVERAGES) for each in curves) or not all(map(math.isfinite, numbers)):
            raise damaged()
        if self.temperature is not None and self.temperature <= 0:
            raise damaged()


@dataclass(frozen=True)
class RunIntervals:
    """As `intervals.json` holds them.

    Attributes:
        checkpoint: the name of the one that they were fitted for.
        samples: how many values they were fitted on, of the one that is known least often.
        blocks, values: their names.
        own: of every block, None where it does not predict.
        together: of all of them.
        limits: of every coverage of `COVERAGES` the half widths of the values, in standard deviations where these are
            predicted; None where there were too few samples.

    Raises:
        InputError: figures are missing, or cannot be.
    """

    checkpoint: str
    samples: int
    blocks: list[str]
    values: list[str]
    own: list[ValueCalibration | None]
    together: ValueCalibration | None
    limits: list[list[float | None]]
    written_by: str = ""

    def __post_init__(self) -> None:
        sizes, limits = {len(each) for each in self.limits}, [each for row in self.limits for each in row]
        whole = len(self.limits) == len(COVERAGES) and sizes == {len(self.values)} and len(self.own) == len(self.blocks)
        if not whole or not self.values or not self.own or self.own[-1] is None:
            raise damaged()
        if self.samples < 1 or any(each is not None and not 0 <= each < math.inf for each in limits):
            raise damaged()

    @property
    def temperatures(self) -> Temperatures:
        """Of every block and of all together; 1 where no variance is predicted."""
        *blocks, together = [(each and each.temperature) or 1.0 for each in (*self.own, self.together)]
        return Temperatures(tuple(blocks), together)

    @property
    def table(self) -> list[tuple[str, dict[str, str]]]:
        """For people: of every block that predicts, and of all together, the figures by their heading."""
        return [(name, _figures(each)) for name, each in self.told]

    @property
    def told(self) -> list[tuple[str, ValueCalibration]]:
        """Every block that predicts, and all together, by name."""
        rows = [*zip(self.blocks, self.own, strict=True), ("ensemble", self.together)]
        return [(name, each) for name, each in rows if each is not None]

    @property
    def unit(self) -> str:
        """In which the half widths are."""
        return "the values' units" if self.told[0][1].temperature is None else "deviations that are predicted"

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


def _figures(each: ValueCalibration) -> dict[str, str]:
    found = {"RMSE": f"{each.rmse:.4g}"}
    if each.shares is None or each.shares_before is None:
        return found
    return {
        **found,
        "temperature": f"{each.temperature:.3f}",
        "NLL": f"{each.nll_before:.4f} → {each.nll:.4f}",
        "inside 90 %": f"{each.shares_before[SHOWN]:.1f} → {each.shares[SHOWN]:.1f}",
    }


def intervals_of(run: Path) -> RunIntervals:
    """The content of `intervals.json`.

    Raises:
        InputError: it is damaged.
    """
    return read_fitted(run / INTERVALS, RunIntervals)


def std_of(said: Prediction) -> Tensor:
    """The standard deviations that are predicted; 1 where none are."""
    return said.variance.sqrt() if isinstance(said.targets, GaussianValues) else torch.ones_like(said.values)
