"""How good every block is on a split: accuracy, likelihood and calibration."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from blocklocal._common.errors import InputError
from blocklocal._common.modes import kept_modes
from blocklocal.block.targets import MISSING, Classes, combined
from blocklocal.network.edge import check_tensor, pair
from blocklocal.network.neighbours import Neighbours, check_network
from blocklocal.training.confusion import Counts, confusion_counts
from blocklocal.training.loaders import check_loader
from blocklocal.uncertainty.measures import calibration_error


@dataclass(frozen=True)
class Evaluation:
    """Accuracies in percent, likelihood and calibration of a network on a set.

    Attributes:
        top3: None for fewer than 4 classes and for binary labels.
        nll: nats per target.
        ece: expected calibration error (15 bins), between 0 and 1; None for binary labels and for a single class.
        block_top1: one entry per block, None where it cannot predict.
        combined_top1: of the ensemble (`combined` of a prediction), None where only the output predicts.
        confusion: what the output took for what, see `confusion_counts`.
    """

    top1: float
    top3: float | None
    nll: float
    ece: float | None
    block_top1: list[float | None]
    combined_top1: float | None
    confusion: Counts


@torch.no_grad()
def block_accuracy(
    network: Neighbours,
    batches: Iterable[Any],
    look: Callable[[list[Tensor | None], Tensor], None] | None = None,
) -> list[float | None]:
    """Percent correct of every block in evaluation mode, None where it cannot predict.

    The mode of every part of the network is put back afterwards, also after an error. A network that does not know its
    shapes takes them from the first batch. The values of targets are checked on the CPU, and on CUDA in the first batch
    alone.

    Args:
        network: a network, or a process's share of one.
        batches: (x, y) pairs, x [B, …], y [B] (or [B, T], [B, L]).
        look: gets every batch's logits (one entry per block) and targets.

    Raises:
        InputError: there is no batch, none has a target, or one is not (x, y).
    """
    counts: list[list[Tensor | None]] = []
    with kept_modes([network]):
        network.train(False)
        for y, scores in network.look(map(pair, batches)):
            check_tensor("y", y, network.device)
            if not counts or not y.is_cuda:
                network.targets.check(y)
            counts.append([None if s is None else torch.stack(network.targets.correct(s, y)) for s in scores])
            if look is not None:
                look(scores, y)
    if not counts:
        raise InputError("nothing to evaluate: there is no batch.")
    return [_percent(list(pairs)) for pairs in zip(*counts, strict=True)]


def _percent(pairs: list[Tensor | None]) -> float | None:
    known = [pair for pair in pairs if pair is not None]
    if not known:
        return None
    right, total = torch.stack(known).sum(0).tolist()
    if not total:
        raise InputError("nothing to evaluate: no sample has a target.")
    return 100.0 * right / total


def evaluate(network: Neighbours, batches: Iterable[Any]) -> Evaluation:
    """Measure a network in evaluation mode. It works before any training too.

    The mode of every part of the network is put back afterwards, also after an error: a BatchNorm that was in
    evaluation mode stays there.

    Args:
        network: the network.
        batches: (x, y) pairs on its device, x [B, …], y [B] (or [B, T] for sequences, [B, L] for binary labels).

    Returns:
        Accuracies of the output, of every block and of the ensemble, likelihood and calibration of the output.

    Raises:
        InputError: it is no `BlockLocal`, there is no batch, no sample has a target, a batch is not (x, y), or a target
            is out of range.
    """
    check_network(network)
    check_loader("evaluation", batches, once=True)
    logits: list[Tensor] = []
    wanted: list[Tensor] = []
    together: list[Tensor | None] = []

    def look(scores: list[Tensor | None], y: Tensor) -> None:
        output = scores[-1]
        assert output is not None  # the output block always predicts
        flat = output.dim() == 3  # positions one by one: sequences may differ in length
        logits.append((output.flatten(0, 1) if flat else output).float().cpu())
        wanted.append((y.flatten() if flat else y).cpu())
        of_all = combined(network.targets, scores)
        together.append(None if of_all is None else torch.stack(network.targets.correct(of_all, y)))

    blocks = block_accuracy(network, batches, look)
    targets = torch.cat(wanted)
    network.targets.check(targets)
    outputs = torch.cat(logits)
    top3, nll, ece = _of_output(network, outputs, targets)
    assert blocks[-1] is not None
    confusion = confusion_counts(network.targets, outputs, targets)
    return Evaluation(blocks[-1], top3, nll, ece, blocks, _percent(together), confusion)


def _of_output(network: Neighbours, logits: Tensor, wanted: Tensor) -> tuple[float | None, float, float | None]:
    nll = network.targets.loss(logits, wanted).item()
    if not isinstance(network.targets, Classes):
        return None, nll, None
    logits, wanted = logits.flatten(0, -2), wanted.flatten().long()
    logits, wanted = logits[wanted != MISSING], wanted[wanted != MISSING]
    classes = network.targets.count
    top3 = None
    if classes > 3:
        hits = (logits.topk(3, dim=-1).indices == wanted.unsqueeze(-1)).any(-1)
        top3 = 100.0 * hits.double().mean().item()
    confidence, label = logits.softmax(-1).max(-1)
    return top3, nll, calibration_error(confidence, label == wanted) if classes > 1 else None
