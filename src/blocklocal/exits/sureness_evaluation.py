"""What the sets, intervals and thresholds of a calibrated network come to on a set, such as the test split."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from blocklocal._common.errors import InputError
from blocklocal._common.modes import kept_modes
from blocklocal.block.targets import MISSING, Classes, values_of
from blocklocal.exits.intervals import std_of
from blocklocal.network.edge import Loaded, pair
from blocklocal.network.neighbours import Neighbours
from blocklocal.network.prediction import Temperatures, predictions
from blocklocal.uncertainty.conformal import ConformalSets
from blocklocal.uncertainty.intervals import ConformalIntervals


@dataclass(frozen=True)
class SurenessEvaluation:
    """What was said of answers, and what came of it. What was not asked for is None.

    Attributes:
        samples: whose truth is known; of values, of the one that is known least often.
        inside: percent of the true classes that are in their set, one entry; or of the true values that are in their
            interval, an entry per value.
        size: the mean number of classes in a set, one entry; or the mean width of the intervals, an entry per value, in
            its own unit.
        empty: percent of the sets that hold no class.
        answered: percent of the samples whose answer is sure enough.
        wrong: percent of these answers that are wrong; None where there are none.
    """

    samples: int
    inside: list[float] | None = None
    size: list[float] | None = None
    empty: float | None = None
    answered: float | None = None
    wrong: float | None = None


def evaluate_sureness(
    network: Neighbours,
    batches: Iterable[Loaded],
    temperatures: Temperatures | None,
    *,
    sets: ConformalSets | None = None,
    interval: ConformalIntervals | None = None,
    answers_from: float | None = None,
) -> SurenessEvaluation:
    """Measure what a network says of its answers.

    Args:
        network: one that predicts values, or gives every sample one class.
        temperatures: those with which the rest was fitted.
        sets: of classes.
        interval: of values.
        answers_from: the confidence from which on an answer counts.

    Raises:
        InputError: there is no batch, or a class or value that is to be measured is known of no sample.
    """
    collected: list[tuple[Tensor, ...]] = []
    targets = network.targets
    with kept_modes([network]), torch.no_grad():
        network.train(False)
        for y, logits in network.look(map(pair, batches)):
            said = predictions(targets, logits, temperatures)
            if isinstance(targets, Classes):
                rows = (said.probabilities, targets.hard(y))
            else:
                rows = tuple(each.flatten(0, -2) for each in (said.values, std_of(said), values_of(y)))
            collected.append(tuple(each.cpu() for each in rows))
    if not collected:
        raise InputError("nothing to evaluate: there is no batch.")
    columns = [torch.cat(each) for each in zip(*collected, strict=True)]
    if isinstance(targets, Classes):
        return _of_classes(columns[0], columns[1], sets, answers_from)
    assert interval is not None
    return _of_values(columns[0], columns[1], columns[2], interval)


def _of_classes(
    probabilities: Tensor, wanted: Tensor, sets: ConformalSets | None, answers_from: float | None
) -> SurenessEvaluation:
    known = wanted != MISSING
    p, y = probabilities[known], wanted[known]
    if not len(y):
        raise InputError("nothing to evaluate: of no sample is the class known.")
    inside = size = empty = answered = wrong = None
    if sets is not None:
        held = sets(p)
        inside = [100 * held.gather(1, y.unsqueeze(1)).double().mean().item()]
        size = [held.sum(1).double().mean().item()]
        empty = 100 * (~held.any(1)).double().mean().item()
    if answers_from is not None:
        sure, label = p.max(1)
        enough = sure >= answers_from
        answered = 100 * enough.double().mean().item()
        wrong = 100 * (label != y)[enough].double().mean().item() if bool(enough.any()) else None
    return SurenessEvaluation(len(y), inside, size, empty, answered, wrong)


def _of_values(values: Tensor, std: Tensor, y: Tensor, interval: ConformalIntervals) -> SurenessEvaluation:
    known = ~y.isnan()
    if not bool(known.any(0).all()):
        raise InputError("nothing to evaluate: a value is not known in any sample.")
    low, high = interval(values, std)
    inside = ((low <= y) & (y <= high)).double().where(known, torch.nan)
    percent, width = (100 * inside.nanmean(0)).tolist(), (high - low).mean(0).tolist()
    return SurenessEvaluation(int(known.sum(0).min()), percent, width)
