"""How well samples that are unlike the training data are told from a set, by every score of `uncertainty.foreign`."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from blocklocal._common.errors import InputError
from blocklocal._common.modes import kept_modes
from blocklocal.network.edge import Loaded, pair
from blocklocal.network.neighbours import Neighbours
from blocklocal.network.prediction import Temperatures
from blocklocal.uncertainty.foreign import aupr, false_positives, foreign_scores
from blocklocal.uncertainty.measures import auroc


@dataclass(frozen=True)
class ForeignScore:
    """How well one score tells foreign samples.

    Attributes:
        auroc: the probability that a foreign sample has the larger score.
        aupr: area under precision and recall.
        false_positives: the share of the set that is taken for foreign where 95 % of the foreign samples are found.
        set_beyond: the share of the set beyond the limit that 95 of 100 validation samples do not exceed.
        foreign_beyond: the share of the foreign samples beyond it.
    """

    auroc: float
    aupr: float
    false_positives: float
    set_beyond: float
    foreign_beyond: float


@dataclass(frozen=True)
class ForeignEvaluation:
    """What came of a set and foreign samples.

    Attributes:
        samples, foreign_samples: how many there were of each.
        scores: by the names of `uncertainty.foreign`.
    """

    samples: int
    foreign_samples: int
    scores: dict[str, ForeignScore]


def evaluate_foreign(
    network: Neighbours,
    batches: Iterable[Loaded],
    foreign: Iterable[Tensor],
    temperatures: Temperatures,
    limits: Mapping[str, float],
) -> ForeignEvaluation:
    """Measure how well foreign samples are told from a set.

    Args:
        batches: of the set, (x, y).
        foreign: batches x of the foreign samples, as the network takes them.
        temperatures: by which the blocks' logits are divided.
        limits: of every score, what 95 of 100 validation samples do not exceed (`FittedExits.limits`).

    Raises:
        InputError: there are no limits, or no samples.
    """
    if not limits:
        raise InputError(
            "foreign data are told where every sample gets one class: this network answers otherwise, or was "
            "calibrated by an older version (then calibrate it again)."
        )
    outside, others = _scores(network, ((x, _nothing(x)) for x in foreign), temperatures)
    inside, samples = _scores(network, map(pair, batches), temperatures)
    found = {
        name: ForeignScore(
            auroc(inside[name], outside[name]),
            aupr(inside[name], outside[name]),
            false_positives(inside[name], outside[name]),
            *((scores[name] > limit).double().mean().item() for scores in (inside, outside)),
        )
        for name, limit in limits.items()
    }
    return ForeignEvaluation(samples, others, found)


def _scores(network: Neighbours, pairs: Iterable[Any], temperatures: Temperatures) -> tuple[dict[str, Tensor], int]:
    """Every score [N], and N."""
    parts: dict[str, list[Tensor]] = {}
    with kept_modes([network]), torch.no_grad():
        network.train(False)
        for _, logits in network.look(pairs):
            for name, score in foreign_scores(logits, temperatures.blocks).items():
                parts.setdefault(name, []).append(score.cpu())
    if not parts:
        raise InputError("nothing to evaluate: there is no sample.")
    scores = {name: torch.cat(each) for name, each in parts.items()}
    return scores, len(scores["largest"])


def _nothing(x: Tensor) -> Tensor:
    """Classes that nobody reads."""
    return torch.zeros(len(x), dtype=torch.int64, device=x.device)
