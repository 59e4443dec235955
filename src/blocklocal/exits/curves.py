"""What a report draws of a calibration: reliability diagrams, and risk against coverage."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from blocklocal.uncertainty.selective import risk_coverage

BINS = 15
POINTS = 50  # of a curve of risk


@dataclass(frozen=True)
class Reliability:
    """Of the answers in each bin of confidence that holds any (DeGroot & Fienberg 1983).

    Attributes:
        confidence: their mean confidence; `right`: the share that is right; `share`: of all answers.
        answers: how many there are in all.
    """

    confidence: list[float]
    right: list[float]
    share: list[float]
    answers: int


@dataclass(frozen=True)
class RiskCurve:
    """The share of wrong answers among those that are surest, by the share that is answered."""

    coverage: list[float]
    risk: list[float]


def reliability(confidence: Tensor, right: Tensor) -> Reliability:
    """Of answers [N], over bins of equal width."""
    place = (confidence.double() * BINS).long().clamp(max=BINS - 1)
    counts = torch.bincount(place, minlength=BINS).double()
    there = counts > 0
    sums = [torch.bincount(place, each.double(), minlength=BINS)[there] for each in (confidence, right)]
    means = [(each / counts[there]).tolist() for each in sums]
    return Reliability(means[0], means[1], (counts[there] / len(confidence)).tolist(), len(confidence))


def risk_curve(confidence: Tensor, right: Tensor) -> RiskCurve:
    """Of answers [N], at `POINTS` coverages."""
    found = risk_coverage(confidence, right)
    at = torch.linspace(0, len(found.risk) - 1, min(POINTS, len(found.risk))).round().long()
    return RiskCurve(found.coverage[at].tolist(), found.risk[at].tolist())
