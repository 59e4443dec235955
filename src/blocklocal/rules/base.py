"""A learning rule: how the blocks become learners, and in which order the learners take a step.

A rule knows nothing of architectures. Adding one is one file in this package that registers a `Rule`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn as nn
from torch import Tensor

from blocklocal._common.message import Forward, Given, Input, hidden_of, mask_after
from blocklocal._common.registry import Registry
from blocklocal.block.edges import OPEN, Edges
from blocklocal.block.learner import BlockLearner
from blocklocal.block.loss import LocalResult, OutputLoss
from blocklocal.block.step import BlockPass, ForwardContext, StepContext
from blocklocal.block.targets import Asked


@dataclass(frozen=True)
class Batch:
    """One step's data.

    Attributes:
        x: images, tokens or what else the first block reads, [B, …].
        y: targets.
        rows: the one-hot target rows [R, R] that twins start from.
        edges: where the messages of the first and the last of the learners come from and go.
    """

    x: Input
    y: Asked
    rows: Tensor
    context: StepContext
    edges: Edges = OPEN


StepFunction = Callable[[Sequence[BlockLearner], Batch], list[LocalResult | None]]


def every_block(index: int, blocks: int) -> bool:
    return True


@dataclass(frozen=True)
class Rule:
    """A named learning rule.

    Attributes:
        local: no gradient crosses a block boundary (so the blocks may run in parallel).
        whole: all blocks form one learner, trained end to end.
        objective: the hidden blocks' objective; "" = the user's choice, None = no loss of their own (`objective_of`).
        twin: the hidden blocks' twin; "" = the user's choice, None = no twin (`twin_of`).
        fixed_twin: the twin stays at its random initial values.
        parts: readout, reconstruction and similarity may be added to the hidden blocks.
        trains: which blocks learn, by index and number of blocks.
        forward_context: a module made from a block, in whose `context(block)` the block runs (feedback alignment).
    """

    name: str
    summary: str
    step: StepFunction
    local: bool = True
    whole: bool = False
    objective: str | None = ""
    twin: str | None = ""
    fixed_twin: bool = False
    parts: bool = True
    trains: Callable[[int, int], bool] = every_block
    forward_context: Callable[[nn.Module], ForwardContext] | None = None

    @property
    def any_objective(self) -> bool:
        """Whether the user chooses the hidden blocks' objective."""
        return self.objective == ""

    def objective_of(self, chosen: str) -> str | None:
        """The name of the hidden blocks' objective, where the user has chosen one; None where they have no loss."""
        return chosen if self.any_objective else self.objective

    def twin_of(self, chosen: str) -> str | None:
        """The name of the hidden blocks' twin, where the user has chosen one; None where they have none."""
        return chosen if self.twin == "" else self.twin

    @property
    def own_losses(self) -> bool:
        """Whether hidden blocks learn from losses of their own."""
        return not self.whole and self.objective is not None

    @property
    def reaches(self) -> bool:
        """Whether a hidden block's loss may reach one block back: what the scope `neighbour` is for."""
        return self.step is local_step and self.local and self.own_losses

    def step_function(self, scope: str) -> StepFunction:
        """The walk over the blocks under this scope, `local` or `neighbour`."""
        return neighbour_step if scope == "neighbour" and self.reaches else self.step

    def waits_because(self, scope: str) -> str | None:
        """Why a block waits for later ones, so that the blocks cannot be spread; None where they can."""
        if self.whole:
            return "it trains all blocks as one, with a gradient from the last to the first"
        if self.step is not local_step:
            return "every block waits for the error of the output"
        if self.step_function(scope) is neighbour_step:
            return "under the scope neighbour a block waits for the gradient of the next one"
        return None


RULES: Registry[Rule] = Registry("rule")


def target_messages(
    learners: Sequence[BlockLearner], incoming: Tensor, *, learning: bool = False
) -> list[Tensor | None]:
    """Every block's backward message, from the target to the first block (Eq. 4).

    Args:
        incoming: the one-hot target rows [R, R], or what came from the block behind the last of these learners.
        learning: in a training step in which messages go from block to block, so that late ones move on.
    """
    messages: list[Tensor | None] = []
    for learner in reversed(learners):
        message, incoming = learner.message(incoming, learning=learning)
        messages.append(message)
    return messages[::-1]


def receive(
    learner: BlockLearner, a: Given, batch: Batch, message: Tensor | None, reach_back: bool = False
) -> BlockPass:
    return learner.receive(a, batch.y, message, context=batch.context, image=batch.x, reach_back=reach_back)


def local_step(learners: Sequence[BlockLearner], batch: Batch) -> list[LocalResult | None]:
    """Every block in turn: forward, own loss, own update. Its graph is gone before the next block runs.

    It asks nothing of the blocks behind but target messages, so it is the step of neighbours in any process.
    """
    edges, due = batch.edges, learners[-1].due(batch.context.step)
    incoming = edges.take_target(batch.rows, learning=True) if due else batch.rows
    messages = target_messages(learners, incoming, learning=due)
    if due:
        edges.pass_target(learners[0].late)
    a, last = edges.take_forward(batch.x), learners[-1]
    results: list[LocalResult | None] = []
    for k, learner in enumerate(learners):
        with edges.timed(learner.index):
            message, messages[k] = messages[k], None
            result, a = block_step(learner, a, batch, message, edges.send_forward if learner is last else None)
            del message
            results.append(result)
    return results


def block_step(
    learner: BlockLearner,
    a: Given,
    batch: Batch,
    message: Tensor | None,
    send: Callable[[Forward], None] | None = None,
) -> tuple[LocalResult | None, Forward]:
    """The step of one block (k, t): forward, own loss, gradients, update.

    Args:
        a: the incoming forward message [B, …].
        message: its backward message, or None.
        send: takes the outgoing forward message as soon as it is made, before the block learns.

    Returns:
        The local result without its graph, and the outgoing forward message.
    """
    pending = receive(learner, a, batch, message)
    outgoing = pending.sent()
    if send is not None:
        send(outgoing)
    learner.local_backward(pending)
    learner.update()
    return summary(pending), outgoing


def neighbour_step(learners: Sequence[BlockLearner], batch: Batch) -> list[LocalResult | None]:
    """As `local_step`, but the loss of block k + 1 also sends its gradient one block back, and never further.

    So a block updates when its neighbour has taken its loss; two blocks' graphs are alive at a time (paper §4.1).
    """
    messages = target_messages(learners, batch.rows, learning=learners[-1].due(batch.context.step))
    results, a = [], batch.x
    waiting: tuple[BlockLearner, BlockPass] | None = None
    for k, learner in enumerate(learners):
        pending = receive(learner, a, batch, messages[k], reach_back=k > 0)
        messages[k] = None
        gradient = learner.local_backward(pending, keep=k + 1 < len(learners))
        if waiting is not None:
            if gradient is not None:  # None: the block cuts its input from its graph itself
                waiting[0].outer_backward(waiting[1], gradient)
            waiting[0].update()
        results.append(summary(pending))
        a, waiting = pending.sent(), (learner, pending)
    if waiting is not None:
        waiting[0].update()
    return results


def summary(pending: BlockPass) -> LocalResult | None:
    """The result without its graph."""
    if pending.result is None:
        return None
    return replace(pending.result, loss=pending.result.loss.detach())


def output_error(learner: BlockLearner, pending: BlockPass, target: Asked) -> Tensor:
    """∂L/∂logits of the output block, [B, C] (softmax − target over the batch size, for cross-entropy)."""
    assert isinstance(learner.local, OutputLoss)
    logits = hidden_of(pending.sent()).requires_grad_()
    mask = mask_after(pending.source, pending.output)
    return torch.autograd.grad(learner.local(logits, target, mask=mask).loss, logits)[0]
