"""Selective prediction: answer where the network is sure, abstain elsewhere. Risk and coverage.

Coverage is the share of samples that are answered; the risk is the share of these answers that are wrong. (El-Yaniv &
Wiener 2010, JMLR 11; Geifman & El-Yaniv 2017, arXiv 1705.08500.)

Shapes: N answers.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from blocklocal._common.errors import InputError

TRIED = 20  # thresholds


class RiskCoverage(NamedTuple):
    """The risk at every coverage, from the surest answer on.

    Attributes:
        coverage: 1/N, 2/N, …, 1: [N].
        risk: the share of wrong answers among so many of the surest, [N].
        threshold: the confidence of the least sure of them, [N].
    """

    coverage: Tensor
    risk: Tensor
    threshold: Tensor


def risk_coverage(confidence: Tensor, right: Tensor) -> RiskCoverage:
    """The curve. Answers of the same confidence are all answered or none: they share the risk of the last of them.

    Args:
        confidence: of every answer [N].
        right: whether it is right [N].

    Raises:
        InputError: the two are not [N] with N ≥ 1, or a confidence is no number.
    """
    _check(confidence, right)
    order = confidence.argsort(descending=True, stable=True)
    sure, wrong = confidence[order].double(), (~right.bool())[order].double()
    count = torch.arange(1, len(sure) + 1, dtype=torch.float64, device=sure.device)
    risk = wrong.cumsum(0) / count
    _, place, size = torch.unique_consecutive(sure, return_inverse=True, return_counts=True)
    return RiskCoverage(count / len(sure), risk[(size.cumsum(0) - 1)[place]], sure)


def aurc(confidence: Tensor, right: Tensor) -> float:
    """Area under the risk-coverage curve, the mean risk over all coverages (Geifman et al. 2019, arXiv 1805.08206)."""
    return risk_coverage(confidence, right).risk.mean().item()


def excess_aurc(confidence: Tensor, right: Tensor) -> float:
    """The area beyond that of the best order of the same answers, in which all right ones come first."""
    best = torch.arange(len(right), 0, -1, dtype=torch.float64)
    return aurc(confidence, right) - aurc(best, right.sort(descending=True).values.cpu())


class Abstention(NamedTuple):
    """When to answer, and what it came to where it was chosen.

    Attributes:
        threshold: the confidence from which on it answers; above 1 it never does.
        coverage: the share of samples that are answered.
        risk: the share of these answers that are wrong.
    """

    threshold: float
    coverage: float
    risk: float


def abstain_at(confidence: Tensor, right: Tensor, risk: float, doubt: float = 0.05) -> Abstention:
    """The threshold that answers most while the risk stays below `risk`, with a probability of at least 1 - doubt.

    Of `TRIED` thresholds the least is taken for which a binomial test refuses that the risk is larger, each with its
    share of the doubt (selection with guaranteed risk: Geifman & El-Yaniv 2017, arXiv 1705.08500).

    Args:
        confidence: of every answer on validation data, [N].
        right: whether it is right [N].
        risk: the share of wrong answers that may be, above 0 and below 1.
        doubt: the probability that the bound does not hold.

    Raises:
        InputError: see `risk_coverage`; or a share is not between 0 and 1.
    """
    for name, share in (("risk", risk), ("doubt", doubt)):
        if not 0 < share < 1:
            raise InputError(f"{name} must be a number above 0 and below 1, not {share}.")
    curve, best = risk_coverage(confidence, right), Abstention(math.inf, 0.0, 0.0)
    last = torch.ones(len(right), dtype=torch.bool)  # of the answers of one confidence
    last[:-1] = curve.threshold[1:] != curve.threshold[:-1]
    places = last.nonzero().flatten()
    for i in places[torch.linspace(0, len(places) - 1, min(TRIED, len(places))).round().long()].tolist():
        answered = i + 1
        if binomial_tail(round(curve.risk[i].item() * answered), answered, risk) <= doubt / TRIED:
            best = Abstention(curve.threshold[i].item(), curve.coverage[i].item(), curve.risk[i].item())
    return best


def binomial_tail(wrong: int, count: int, risk: float) -> float:
    """P(at most so many of `count` are wrong), where each is with the probability `risk`."""
    k = torch.arange(min(wrong, count) + 1, dtype=torch.float64)
    n = torch.tensor(float(count), dtype=torch.float64)
    chance = (n + 1).lgamma() - (k + 1).lgamma() - (n - k + 1).lgamma()
    if risk >= 1:
        return float(wrong >= count)
    return min(1.0, (chance + k * math.log(risk) + (n - k) * math.log1p(-risk)).exp().sum().item())


def _check(confidence: Tensor, right: Tensor) -> None:
    if confidence.dim() != 1 or confidence.shape != right.shape or not len(confidence):
        raise InputError(
            f"confidence and right must be two tensors [N] of one size, not {list(confidence.shape)} and "
            f"{list(right.shape)}."
        )
    if not bool(torch.isfinite(confidence).all()):
        raise InputError("a confidence is no finite number.")
