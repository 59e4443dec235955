"""Deep supervision: backpropagation with a classifier behind every block, all losses at once (Lee et al. 2015).

The gradient of every block's loss goes back through all blocks before it: the peer of local learning for early exits
(BranchyNet: Teerapittayanon et al. 2016, arXiv 1709.01686), and no local rule.
"""

from collections.abc import Sequence
from typing import Any

import torch

from blocklocal._common.errors import InputError
from blocklocal.block.learner import BlockLearner
from blocklocal.block.loss import LocalResult
from blocklocal.rules.base import RULES, Batch, Rule, summary


def supervised_step(learners: Sequence[BlockLearner], batch: Batch) -> list[LocalResult | None]:
    """Forward through all blocks as one graph; the sum of all losses goes back through it."""
    if any(learner.scale is not None for learner in learners):
        raise InputError(
            "deep-supervision has one gradient for all blocks, and in float16 each block scales its own: give bfloat16 "
            "or float32."
        )
    a: Any = batch.x
    pendings = []
    for learner in learners:
        pending = learner.receive(a, batch.y, None, context=batch.context, image=batch.x, cut=False)
        pendings.append(pending)
        a = pending.output
    losses = [pending.result.loss for pending in pendings if pending.result is not None]
    total = torch.stack([loss for loss in losses if loss.requires_grad]).sum()
    total.backward()
    for learner in learners:
        learner.update()
    return [summary(pending) for pending in pendings]


RULES.add(
    "deep-supervision",
    Rule(
        "deep-supervision",
        "backprop from a classifier at every block, all losses at once",
        supervised_step,
        local=False,
        objective="greedy",
        twin=None,
    ),
)
