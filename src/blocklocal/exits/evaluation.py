"""What early exit comes to on a set: how many answers are right, from which block they are, and what they cost."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from blocklocal.block.targets import MISSING, Classes, values_of
from blocklocal.exits.fitted import Choice
from blocklocal.network.edge import Loaded, pair
from blocklocal.network.exits import EarlyPrediction
from blocklocal.network.neighbours import Neighbours
from blocklocal.network.network import BlockLocal


@dataclass(frozen=True)
class EarlyEvaluation:
    """What early exit came to on a set.

    Attributes:
        right: percent of the answers that are right.
        changed: percent of the answers that are others than the output's.
        left: percent of the answers that are from each block.
        cost: mean FLOPs of a sample, in percent of the whole network's.
    """

    right: float
    changed: float
    left: list[float]
    cost: float


def evaluate_early(network: Neighbours, batches: Iterable[Loaded], choice: Choice) -> EarlyEvaluation:
    """Measure a network whose samples leave early."""
    assert isinstance(network, BlockLocal)
    count, prices = len(network.learners), torch.tensor(choice.prices, dtype=torch.float64)
    right, changed, answers, left, cost, samples = 0, 0, 0, torch.zeros(count), 0.0, 0
    for x, y in map(pair, batches):
        found = network.predict(x, choice.exits)
        assert isinstance(found, EarlyPrediction)
        wanted = network.targets.hard(y) if isinstance(network.targets, Classes) else values_of(y).long()
        there = (wanted != MISSING) & (found.block > 0)
        right += int((found.label == wanted)[there].sum())
        changed += int((found.label != network.predict(x).label)[there].sum())
        answers += int(there.sum())
        left += torch.bincount(found.block[there].cpu() - 1, minlength=count)
        cost += prices[_last(found.block).cpu() - 1].sum().item()
        samples += len(found.block)
    return EarlyEvaluation(
        100 * right / answers, 100 * changed / answers, (100 * left / answers).tolist(), 100 * cost / samples
    )


def _last(block: Tensor) -> Tensor:
    """Of every sample, the block at which its last answer was taken."""
    return (block if block.dim() == 1 else block.flatten(1).amax(1)).clamp(min=1)
