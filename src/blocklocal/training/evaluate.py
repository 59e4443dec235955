"""How good every block is on a split: accuracy, likelihood and calibration."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from blocklocal.errors import InputError
from blocklocal.network import BlockLocal
from blocklocal.targets import MISSING, Classes


@dataclass(frozen=True)
class Evaluation:
    """Accuracies in percent; nll in nats per target; ece (expected calibration error, 15 bins) between 0 and 1.

    block_top1: one entry per unit, None where a block cannot predict. top3 is None for fewer than 4 classes and for
    binary labels; ece is None for binary labels.
    """

    top1: float
    top3: float | None
    nll: float
    ece: float | None
    block_top1: list[float | None]


@torch.no_grad()
def evaluate(network: BlockLocal, batches: Iterable[tuple[Tensor, Tensor]]) -> Evaluation:
    """Run a network in evaluation mode over (x, y) batches; its mode is restored afterwards."""
    mode, logits, wanted = network.training, [], []
    counts: dict[int, list[Tensor]] = {}
    network.eval()
    for x, y in batches:
        scores = network.block_logits(x)
        for k, each in enumerate(scores):
            if each is not None:
                counts.setdefault(k, []).append(torch.stack(network.targets.correct(each, y)))
        output = scores[-1]
        assert output is not None  # the output block always predicts
        logits.append(output.float().cpu())
        wanted.append(y.cpu())
    network.train(mode)
    if not wanted:
        raise InputError("nothing to evaluate: the split holds no images.")
    blocks: list[float | None] = [None] * len(network.units)
    for k, pairs in counts.items():
        right, total = torch.stack(pairs).sum(0).tolist()
        blocks[k] = 100.0 * right / max(total, 1)
    top3, nll, ece = _of_output(network, torch.cat(logits), torch.cat(wanted))
    assert blocks[-1] is not None
    return Evaluation(blocks[-1], top3, nll, ece, blocks)


def _of_output(network: BlockLocal, logits: Tensor, wanted: Tensor) -> tuple[float | None, float, float | None]:
    nll = network.targets.loss(logits, wanted).item()
    if not isinstance(network.targets, Classes):
        return None, nll, None
    from torchmetrics.functional.classification import multiclass_calibration_error

    logits, wanted = logits.flatten(0, -2), wanted.flatten()
    logits, wanted = logits[wanted != MISSING], wanted[wanted != MISSING]
    classes = network.targets.count
    top3 = None
    if classes > 3:
        hits = (logits.topk(3, dim=-1).indices == wanted.unsqueeze(-1)).any(-1)
        top3 = 100.0 * hits.double().mean().item()
    # torchmetrics bins by confidence and cannot place a confidence of exactly 0
    probabilities = logits.softmax(-1).clamp(min=1e-12)
    ece = multiclass_calibration_error(probabilities, wanted, num_classes=classes, n_bins=15).item()
    return top3, nll, ece
