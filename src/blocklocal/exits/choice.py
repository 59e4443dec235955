"""From what the blocks said of a validation set to when a sample leaves: for a budget, or for a risk.

A risk comes with a guarantee (Angelopoulos et al. 2021, Learn then Test, arXiv 2110.01052): thresholds are tried from
the safest on, and taken while the hypothesis that the risk is larger than asked for can be refused. All ways to leave
are tried, so each may be wrong with a share of `DOUBT` only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from blocklocal.exits.answers import Answers, BlockAnswers
from blocklocal.exits.costs import Costs
from blocklocal.network.exits import enough
from blocklocal.uncertainty.selective import binomial_tail

DOUBT = 0.05  # of a guarantee: the probability that it does not hold
STEPS = 64  # thresholds that are tried of every way
WORDS = {  # rules, for people
    "confidence": "a block is sure",
    "together": "all so far are sure together",
    "agreement": "two blocks agree",
}


@dataclass(frozen=True)
class Setting:
    """A way to leave, and what it comes to on the validation set.

    Attributes:
        by: the rule (`network.exits`).
        first: the first block that is asked, from 0.
        threshold: of all blocks that are asked.
        cost: mean FLOPs, as a share of the whole network's.
        right: the share of right answers.
        changed: the share of answers that are others than the output's, in the mean over samples.
        left: the share of the answers that are from each block.
    """

    by: str
    first: int
    threshold: float
    cost: float
    right: float
    changed: float
    left: tuple[float, ...] = ()

    def describe(self, count: int) -> str:
        """When a sample leaves, in words, of a network of so many blocks."""
        if self.first + 1 == count:
            return "nobody leaves"
        return f"{WORDS[self.by]} (at least {self.threshold:.3f}), from block {self.first + 1} on"


def settings_of(said: BlockAnswers, costs: Costs) -> list[list[Setting]]:
    """Of every way to leave, from the safest threshold to the most daring; the first is that nobody leaves."""
    output, hidden = said.own[-1], [k for k, each in enumerate(said.own[:-1]) if each is not None]
    assert output is not None
    last = len(said.own) - 1
    right, left = output.right[said.wanted].double().mean().item(), (0.0,) * last + (1.0,)
    nobody = Setting("confidence", last, 1.0, 1.0, right, 0.0, left)
    ways = [("together", hidden[0])] if hidden else []
    ways += [(by, first) for by in ("confidence", "agreement") for first in hidden]
    return [[nobody], *(_along(said, costs, by, first) for by, first in ways)]


def _along(said: BlockAnswers, costs: Costs, by: str, first: int) -> list[Setting]:
    answers = said.together if by == "together" else said.own
    output = said.own[-1]
    assert output is not None
    asked = [k >= first and each is not None for k, each in enumerate(answers)]
    prices = torch.tensor(costs.leaving([ask and k + 1 < len(asked) for k, ask in enumerate(asked)]))
    known = [(k, each) for k, each in enumerate(answers) if each is not None and asked[k]]
    sure = torch.cat([each.sure for k, each in known[:-1]])
    at = torch.linspace(0, 1, STEPS, dtype=torch.float64)
    tried = sorted({float(value) for value in torch.quantile(_some(sure).double(), at)} | {1.0}, reverse=True)
    found = []
    for threshold in tried:
        leaves, right, label = _left(known, by, threshold)
        changed = _mean((label != output.label).double(), said).mean().item()
        cost = prices[_last(leaves, said)].double().mean().item()
        shares = (torch.bincount(leaves, minlength=len(asked)).double() / len(leaves)).tolist()
        accuracy = right[said.wanted].double().mean().item()
        found.append(Setting(by, first, threshold, cost, accuracy, changed, tuple(shares)))
    return found


def _some(values: Tensor, most: int = 10**6) -> Tensor:
    """At most so many of them, evenly: torch's quantiles take no more."""
    return values[:: max(1, -(-len(values) // most))]


def _left(known: list[tuple[int, Answers]], by: str, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    """Where every answer leaves, whether it is right, and what it is."""
    last, end = known[-1]
    leaves, right, label = torch.full_like(end.label, last), end.right.clone(), end.label.clone()
    for place in reversed(range(len(known) - 1)):
        k, each = known[place]
        before = known[place - 1][1].label if place else None
        here = enough(by, threshold, each.sure, each.label, before)
        leaves, right, label = (
            torch.where(here, own, rest) for own, rest in ((k, leaves), (each.right, right), (each.label, label))
        )
    return leaves, right, label


def _mean(values: Tensor, said: BlockAnswers) -> Tensor:
    """Per sample with answers, the mean over these."""
    sums = torch.zeros(said.samples, dtype=torch.float64).index_add_(0, said.sample, values)
    counts = torch.zeros(said.samples, dtype=torch.float64).index_add_(0, said.sample, torch.ones_like(values))
    return sums[counts > 0] / counts[counts > 0]


def _last(leaves: Tensor, said: BlockAnswers) -> Tensor:
    """Per sample with answers, the block at which the last of them leaves."""
    found = torch.full((said.samples,), -1).scatter_reduce_(0, said.sample, leaves, "amax")
    return found[found >= 0]


def at_budget(settings: Sequence[Sequence[Setting]], budget: float) -> Setting | None:
    """The most accurate setting that costs at most so much of the whole network; None where there is none."""
    fits = [each for way in settings for each in way if each.cost <= budget]
    return max(fits, key=lambda each: (each.right, -each.cost)) if fits else None


def at_risk(settings: Sequence[Sequence[Setting]], risk: float, samples: int, *, single: bool) -> Setting:
    """The cheapest setting that changes at most this share of the answers, with a probability of 1 - `DOUBT`.

    Args:
        samples: how many the settings were measured on.
        single: whether a sample has one answer.
    """
    (nobody,), *ways = settings
    safe = [nobody]
    for way in ways:
        for each in way:
            if p_value(each.changed, samples, risk, single=single) > DOUBT / len(ways):
                break
            safe.append(each)
    return min(safe, key=lambda each: each.cost)


def p_value(mean: float, samples: int, risk: float, *, single: bool) -> float:
    """The largest probability of so small a mean loss where the expected one is larger than `risk`.

    Of losses 0 and 1 (`single`) by the binomial distribution, of others from 0 to 1 by Hoeffding's inequality.
    """
    if not single:
        gap = risk - mean
        return 1.0 if gap <= 0 else math.exp(-2 * samples * gap * gap)
    return binomial_tail(round(mean * samples), samples, risk)
