"""What is asked of a trained run beside its answers, from what `blocklocal calibrate` has fitted."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from blocklocal._common.errors import InputError
from blocklocal.network.exits import Exits
from blocklocal.network.prediction import Prediction, Temperatures
from blocklocal.runs.calibrate import run_temperatures
from blocklocal.runs.exits import foreign_limit, kept_sureness
from blocklocal.runs.intervals import kept_intervals
from blocklocal.runs.saved import load_facts
from blocklocal.uncertainty.conformal import ConformalSets
from blocklocal.uncertainty.intervals import ConformalIntervals


@dataclass(frozen=True)
class Asking:
    """What is asked beside the answers.

    Attributes:
        exit: with which samples leave early.
        temperatures: by which logits are divided; `exit` has its own.
        limit: the disagreement of the blocks from which on a sample is said to be foreign; None: nothing is said.
        interval: the intervals of values that are said too.
        sets: the sets of classes that are said too.
        answers_from: the confidence from which on an answer is sure enough.
    """

    exit: Exits | None = None
    temperatures: Temperatures | None = None
    limit: float | None = None
    interval: ConformalIntervals | None = None
    sets: ConformalSets | None = None
    answers_from: float | None = None

    def predict(self, network: Any, x: Tensor) -> Prediction:
        """What a network, whole or with one block at a time in memory, says of a batch."""
        if self.exit is not None:
            return network.predict(x, self.exit)
        return network.predict(x) if self.temperatures is None else network.predict(x, temperatures=self.temperatures)


def check_goes_with_exit(exit: Exits | None, *, coverage: float | None, abstain: float | None, foreign: bool) -> None:
    """Raise InputError where a sample is to leave early, and what is asked needs blocks behind."""
    if exit is None:
        return
    for name, given, what in (
        ("foreign", foreign, "all blocks"),
        ("coverage", coverage is not None, "the output"),
        ("abstain", abstain is not None, "the output"),
    ):
        if given:
            raise InputError(f"--{name} asks {what}, which early exit does not: leave out --budget and --risk.")


def asking(
    run: Path,
    *,
    checkpoint: str | None = None,
    exit: Exits | None = None,
    coverage: float | None = None,
    abstain: float | None = None,
    foreign: bool = False,
) -> Asking:
    """What a run can be asked.

    Args:
        coverage: of sets of classes, or of intervals of values.
        abstain: the share of the answers that may be wrong where the others are abstained from.
        foreign: whether to say of every sample that it is unlike the training data.

    Raises:
        InputError: that was not fitted, or early exit does not go with it.
    """
    check_goes_with_exit(exit, coverage=coverage, abstain=abstain, foreign=foreign)
    asked: dict[str, Any] = {}
    if coverage is not None and load_facts(run).predicts_values:
        asked["interval"], coverage = kept_intervals(run, coverage, checkpoint), None
    if coverage is not None or abstain is not None:
        sureness = kept_sureness(run, checkpoint)
        asked["sets"] = None if coverage is None else sureness.sets_of(coverage)
        asked["answers_from"] = None if abstain is None else sureness.answers_from(abstain)
    return Asking(
        exit=exit,
        temperatures=run_temperatures(run, checkpoint),
        limit=foreign_limit(run, checkpoint) if foreign else None,
        **asked,
    )
