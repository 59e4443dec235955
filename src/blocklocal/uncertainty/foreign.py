"""Foreign data: scores that are larger for samples unlike the training data, from one forward pass.

    largest        1 - the largest probability of the output (Hendrycks & Gimpel 2017, arXiv 1610.02136)
    energy         -log Σ_c exp(logit_c) of the output (Liu et al. 2020, arXiv 2010.03759)
    disagreement   Σ_k D_KL(q ‖ p_k): how far the blocks' predictions p_k lie from what they say together, q,
                   where each counts the same

Shapes: N samples, C classes, K blocks.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from blocklocal._common.errors import InputError
from blocklocal.uncertainty.measures import auroc


def disagreement(blocks: Sequence[Tensor]) -> Tensor:
    """Σ_k D_KL(q ‖ p_k), q ∝ exp(mean_k log p_k) the distribution for which this sum is least, in nats: [N].

    With q = exp(mean_k log p_k) / Z it is -K log Z.

    Args:
        blocks: of every block the logits [N, C], or the logarithms of its probabilities.

    Raises:
        InputError: there are fewer than two, or their shapes differ.
    """
    if len(blocks) < 2 or any(each.shape != blocks[0].shape for each in blocks):
        shapes = [list(each.shape) for each in blocks]
        raise InputError(f"a disagreement is that of two blocks or more over the same classes, not of {shapes}.")
    mean = torch.stack([each.double().log_softmax(-1) for each in blocks]).mean(0)
    return -len(blocks) * mean.logsumexp(-1)


def foreign_scores(blocks: Sequence[Tensor | None], temperatures: Sequence[float] = ()) -> Mapping[str, Tensor]:
    """Every score that these blocks allow, [N].

    Args:
        blocks: the logits [N, C] of every block, the output's last (`network.block_logits(x)`); None where one cannot
            predict.
        temperatures: of every block: its logits are divided by it; none for 1 everywhere.

    Raises:
        InputError: there is no output.
    """
    divide = temperatures or [1.0] * len(blocks)
    blocks = [None if each is None else each / t for each, t in zip(blocks, divide, strict=True)]
    known = [each for each in blocks if each is not None]
    output = blocks[-1] if blocks else None
    if output is None:
        raise InputError("foreign data are told by the output and the blocks before it, and there is no output.")
    found = {"largest": 1 - output.double().softmax(-1).amax(-1), "energy": -output.double().logsumexp(-1)}
    return found if len(known) < 2 else {**found, "disagreement": disagreement(known)}


def aupr(inside: Tensor, outside: Tensor) -> float:
    """Area under the precision-recall curve (average precision) of telling `outside`, whose scores should be larger.

    Args:
        inside, outside: scores per sample.
    """
    auroc(inside, outside)  # refuses what cannot be
    values = torch.cat((inside, outside)).double()
    label = torch.cat((torch.zeros(len(inside)), torch.ones(len(outside)))).double()
    order = values.argsort(descending=True, stable=True)
    hits = label[order].cumsum(0)
    last = torch.ones(len(values), dtype=torch.bool)  # samples of one score are told together
    last[:-1] = values[order][1:] != values[order][:-1]
    precision, recall = (hits / torch.arange(1, len(values) + 1))[last], (hits / len(outside))[last]
    return (precision * recall.diff(prepend=recall.new_zeros(1))).sum().item()


def false_positives(inside: Tensor, outside: Tensor, found: float = 0.95) -> float:
    """The share of `inside` that is taken for foreign where so much of `outside` is found: FPR at 95 % TPR.

    Args:
        inside, outside: scores per sample.
        found: the share of `outside` that is found.
    """
    auroc(inside, outside)  # refuses what cannot be
    ordered = outside.sort(descending=True).values
    threshold = ordered[min(len(ordered), -(-int(found * len(ordered) * 1000) // 1000)) - 1]
    return (inside >= threshold).double().mean().item()
