"""How good every block is on a split: accuracy, likelihood and calibration."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from blocklocal.errors import InputError
from blocklocal.network import BlockLocal
from blocklocal.targets import MISSING, Classes, combined
from blocklocal.training.learner import Learner


@dataclass(frozen=True)
class Evaluation:
    """Accuracies in percent; nll in nats per target; ece (expected calibration error, 15 bins) between 0 and 1.

    block_top1: one entry per unit, None where a block cannot predict. combined_top1: of all blocks together (`combined`
    of a prediction), None where only the output predicts. top3 is None for fewer than 4 classes and for binary labels;
    ece is None for binary labels and for a single class.
    """

    top1: float
    top3: float | None
    nll: float
    ece: float | None
    block_top1: list[float | None]
    combined_top1: float | None


@torch.no_grad()
def block_accuracy(
    network: Learner,
    batches: Iterable[tuple[Tensor, Tensor]],
    look: Callable[[list[Tensor | None], Tensor], None] | None = None,
) -> list[float | None]:
    """Percent correct of every block in evaluation mode, None where it cannot predict; the mode is restored.

    look: gets every batch's logits (one entry per block) and targets. Raises InputError for no batches.
    """
    mode, counts = network.training, {k: [] for k in range(len(network.units))}
    network.train(False)
    for x, y in batches:
        scores = network.block_logits(x)
        for k, each in enumerate(scores):
            counts[k].append(None if each is None else torch.stack(network.targets.correct(each, y)))
        if look is not None:
            look(scores, y)
    network.train(mode)
    if not counts[0]:
        raise InputError("nothing to evaluate: the split holds no images.")
    return [_percent(pairs) for pairs in counts.values()]


def _percent(pairs: list[Tensor | None]) -> float | None:
    known = [pair for pair in pairs if pair is not None]
    if not known:
        return None
    right, total = torch.stack(known).sum(0).tolist()
    return 100.0 * right / max(total, 1)


def evaluate(network: BlockLocal, batches: Iterable[tuple[Tensor, Tensor]]) -> Evaluation:
    """Run a network in evaluation mode over (x, y) batches; its mode is restored afterwards."""
    logits: list[Tensor] = []
    wanted: list[Tensor] = []
    together: list[Tensor | None] = []

    def look(scores: list[Tensor | None], y: Tensor) -> None:
        output = scores[-1]
        assert output is not None  # the output block always predicts
        logits.append(output.float().cpu())
        wanted.append(y.cpu())
        of_all = combined(network.targets, scores)
        together.append(None if of_all is None else torch.stack(network.targets.correct(of_all, y)))

    blocks = block_accuracy(network, batches, look)
    top3, nll, ece = _of_output(network, torch.cat(logits), torch.cat(wanted))
    assert blocks[-1] is not None
    return Evaluation(blocks[-1], top3, nll, ece, blocks, _percent(together))


def _of_output(network: BlockLocal, logits: Tensor, wanted: Tensor) -> tuple[float | None, float, float | None]:
    nll = network.targets.loss(logits, wanted).item()
    if not isinstance(network.targets, Classes):
        return None, nll, None
    logits, wanted = logits.flatten(0, -2), wanted.flatten()
    logits, wanted = logits[wanted != MISSING], wanted[wanted != MISSING]
    classes = network.targets.count
    top3 = None
    if classes > 3:
        hits = (logits.topk(3, dim=-1).indices == wanted.unsqueeze(-1)).any(-1)
        top3 = 100.0 * hits.double().mean().item()
    return top3, nll, _calibration_error(logits, wanted) if classes > 1 else None


def _calibration_error(logits: Tensor, wanted: Tensor) -> float:
    """Of logits [N, C] and labels [N]."""
    from blocklocal.report.drawing import import_matplotlib

    import_matplotlib()  # torchmetrics imports it too, and must not fail over a backend that the user has named
    from torchmetrics.functional.classification import multiclass_calibration_error

    # torchmetrics bins by confidence and cannot place a confidence of exactly 0
    probabilities = logits.softmax(-1).clamp(min=1e-12)
    return multiclass_calibration_error(probabilities, wanted, num_classes=logits.shape[-1], n_bins=15).item()
