"""Direct feedback alignment: the output error through fixed random weights, straight to every block (Nøkland 2016)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from blocklocal._common.errors import InputError
from blocklocal._common.message import hidden_of, mask_after
from blocklocal.block.learner import BlockLearner
from blocklocal.block.loss import HiddenLoss, LocalResult
from blocklocal.block.shapes import from_positions, to_positions
from blocklocal.rules.base import RULES, Batch, Rule, output_error, receive, summary, target_messages


def direct_feedback_step(learners: Sequence[BlockLearner], batch: Batch) -> list[LocalResult | None]:
    """Forward through all blocks; then every hidden block learns from e·B_k in the place of its true gradient.

    It waits for the output, so all graphs are alive until then.
    """
    messages, pendings, a = target_messages(learners, batch.rows), [], batch.x
    for learner in learners:
        pending = receive(learner, a, batch, None)
        pendings.append(pending)
        a = pending.sent()
    error = output_error(learners[-1], pendings[-1], batch.y).float()
    _check_error(learners[-1], error)
    learners[-1].local_backward(pendings[-1])
    for learner, pending, message in zip(learners[:-1], pendings, messages, strict=False):
        assert isinstance(learner.local, HiddenLoss)
        assert message is not None
        row_error = learner.local.targets.row_errors(error)
        layout, mask = learner.local.layouts["output"], mask_after(pending.source, pending.output)
        seen = layout.view(hidden_of(pending.output))
        learner.outer_backward(pending, layout.back(projected(row_error, message, seen, mask)))
    for learner in learners:
        learner.update()
    return [summary(pending) for pending in pendings]


def _check_error(last: BlockLearner, error: Tensor) -> None:
    if last.local is not None and last.local.targets.hidden:
        raise InputError(
            "direct-feedback-alignment projects the error of every target, and with this output_loss the output "
            "answers none: give another rule, or a model with one output per target."
        )
    if error.dim() > 3:
        raise InputError(
            "direct-feedback-alignment projects one error per sample or per position of a sequence, and here every "
            "pixel has one: give another rule."
        )


def projected(error: Tensor, message: Tensor, output: Tensor, mask: Tensor | None = None) -> Tensor:
    """The error [B, R] (or [B, T, R]) through b [R, 1, U] in the shape of the block's output, shared over positions.

    Args:
        mask: the positions among which it is shared, [B, T]; None for all.
    """
    with torch.no_grad():
        positions = to_positions(output)
        if error.dim() == 3:
            per_position = error
        elif mask is None:
            per_position = error.unsqueeze(1) / positions.shape[1]
        else:
            per_position = error.unsqueeze(1) * (mask / mask.sum(1, keepdim=True).clamp(min=1)).unsqueeze(-1)
        return from_positions((per_position @ message.flatten(1)).expand_as(positions), output)


RULES.add(
    "direct-feedback-alignment",
    Rule(
        "direct-feedback-alignment",
        "the output error through fixed random weights",
        direct_feedback_step,
        local=False,
        objective=None,
        twin="dense",
        fixed_twin=True,
        parts=False,
    ),
)
