"""What the output says on a validation set of its later answers: sets that hold the truth, and when to abstain."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from blocklocal._common.errors import InputError
from blocklocal.uncertainty.conformal import ConformalSets
from blocklocal.uncertainty.coverages import COVERAGES, place_of, too_few
from blocklocal.uncertainty.intervals import smallest
from blocklocal.uncertainty.selective import abstain_at, aurc

RISKS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)  # for which abstention is kept


@dataclass(frozen=True)
class Sureness:
    """Of an output that gives every sample one class.

    Attributes:
        samples: of the validation set.
        aurc: area under its risk-coverage curve (`uncertainty.selective`).
        sets: of every coverage of `COVERAGES` the limit of conformal sets of the score "threshold"; None where there
            were too few samples.
        thresholds: of every risk of `RISKS` the confidence from which on it answers; None where it never does.
        answered: the share of the validation samples that is answered then.

    Raises:
        InputError: figures are missing.
    """

    samples: int
    aurc: float
    sets: Sequence[float | None]
    thresholds: Sequence[float | None]
    answered: Sequence[float]

    def __post_init__(self) -> None:
        if (len(self.sets), len(self.thresholds), len(self.answered)) != (len(COVERAGES), len(RISKS), len(RISKS)):
            raise InputError("these exits are damaged: fit them again.")

    def sets_of(self, coverage: float) -> ConformalSets:
        """Conformal sets of a coverage.

        Raises:
            InputError: it is none of `COVERAGES`, or there were too few samples for it.
        """
        limit = self.sets[place_of(coverage)]
        if limit is None:
            raise too_few(self.samples, coverage)
        return ConformalSets(coverage, "threshold", torch.tensor([limit], dtype=torch.float64))

    def answers_from(self, risk: float) -> float:
        """The confidence from which on at most this share of the answers is wrong, in 95 of 100 validation sets.

        Raises:
            InputError: the share is none of `RISKS`, or no confidence is enough.
        """
        if risk not in RISKS:
            raise InputError(f"--abstain takes a risk of {', '.join(f'{each:g}' for each in RISKS)}, not {risk:g}.")
        threshold = self.thresholds[RISKS.index(risk)]
        if threshold is None:
            raise InputError(
                f"no confidence shows on {self.samples} validation samples that at most {risk:g} of the answers are "
                "wrong: ask for a larger risk, or calibrate on more samples."
            )
        return threshold


def fit_sureness(truth: Tensor, sure: Tensor, right: Tensor) -> Sureness:
    """On a validation set.

    Args:
        truth: the probability of the true class, [N].
        sure: that of the answer, [N].
        right: whether it is right, [N].
    """
    limits = [smallest((1 - truth).double(), coverage).item() for coverage in COVERAGES]
    found = [abstain_at(sure, right, risk) for risk in RISKS]
    return Sureness(
        samples=len(sure),
        aurc=aurc(sure, right),
        sets=[None if limit == math.inf else limit for limit in limits],
        thresholds=[None if each.threshold == math.inf else each.threshold for each in found],
        answered=[each.coverage for each in found],
    )
