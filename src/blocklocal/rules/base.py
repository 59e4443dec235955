"""A learning rule: how the blocks become units, and in which order the units take a step.

A rule knows nothing of architectures. Adding one is one file in this package that registers a `Rule`.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn as nn
from torch import Tensor

from blocklocal._common.registry import Registry
from blocklocal.block.learner import BlockLearner, BlockPass, ForwardContext, StepContext
from blocklocal.block.loss import LocalResult, OutputLoss


@dataclass(frozen=True)
class Batch:
    """One step's data: images (or tokens) x [B, …], targets y, the one-hot target rows [R, R] that twins start from."""

    x: Tensor
    y: Tensor
    rows: Tensor
    context: StepContext


StepFunction = Callable[[Sequence[BlockLearner], Batch], list[LocalResult | None]]


def every_block(index: int, blocks: int) -> bool:
    return True


def untimed(index: int) -> AbstractContextManager[None]:
    return nullcontext()


@dataclass(frozen=True)
class Rule:
    """A named learning rule.

    local:      no gradient crosses a block boundary (so the blocks may run in parallel)
    whole:      all blocks form one unit, trained end to end
    objective:  the hidden blocks' objective; "" = the user's choice, None = no loss of their own
    twin:       the hidden blocks' twin; "" = the user's choice, None = no twin
    fixed_twin: the twin stays at its random initial values
    parts:      readout, reconstruction and similarity may be added to the hidden blocks
    trains:     which blocks learn, by index and number of blocks
    forward_context:     a module made from a unit's block whose `context(block)` the unit runs in (feedback alignment)
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


RULES: Registry[Rule] = Registry("rule")


def target_messages(units: Sequence[BlockLearner], incoming: Tensor, *, learning: bool = False) -> list[Tensor | None]:
    """Every block's backward message, from the target to the first block (Eq. 4).

    incoming: the one-hot target rows [R, R], or what came from the block behind the last of these units. learning: in a
    training step, so that late messages move on.
    """
    messages: list[Tensor | None] = []
    for unit in reversed(units):
        message, incoming = unit.message(incoming, learning=learning)
        messages.append(message)
    return messages[::-1]


def receive(unit: BlockLearner, a: Tensor, batch: Batch, message: Tensor | None, reach_back: bool = False) -> BlockPass:
    return unit.receive(a, batch.y, message, context=batch.context, image=batch.x, reach_back=reach_back)


def local_step(units: Sequence[BlockLearner], batch: Batch) -> list[LocalResult | None]:
    """Every block in turn: forward, own loss, own update. Its graph is gone before the next block runs."""
    return pass_through(units, batch, batch.x, target_messages(units, batch.rows, learning=True))


def pass_through(
    units: Sequence[BlockLearner],
    batch: Batch,
    a: Tensor,
    messages: list[Tensor | None],
    *,
    send: Callable[[Tensor], None] | None = None,
    timed: Callable[[int], AbstractContextManager[None]] = untimed,
) -> list[LocalResult | None]:
    """A local step of these units, neighbours of each other, from the forward message `a` on.

    messages: their backward messages; emptied. send: takes the last unit's forward message as soon as it is made,
    before the unit learns. timed: a context in which a unit, given by its index, works.
    """
    results: list[LocalResult | None] = []
    for k, unit in enumerate(units):
        with timed(unit.index):
            pending = receive(unit, a, batch, messages[k])
            messages[k] = None
            a = pending.sent()
            if send is not None and k + 1 == len(units):
                send(a)
            unit.local_backward(pending)
            unit.update()
            results.append(summary(pending))
            del pending
    return results


def neighbour_step(units: Sequence[BlockLearner], batch: Batch) -> list[LocalResult | None]:
    """As `local_step`, but the loss of block k + 1 also sends its gradient one block back, and never further.

    So a block updates when its neighbour has taken its loss; two blocks' graphs are alive at a time (paper §4.1).
    """
    messages = target_messages(units, batch.rows, learning=True)
    results, a = [], batch.x
    waiting: tuple[BlockLearner, BlockPass] | None = None
    for k, unit in enumerate(units):
        pending = receive(unit, a, batch, messages[k], reach_back=k > 0)
        messages[k] = None
        gradient = unit.local_backward(pending, keep=k + 1 < len(units))
        if waiting is not None and gradient is not None:
            waiting[0].outer_backward(waiting[1], gradient)
            waiting[0].update()
        results.append(summary(pending))
        a, waiting = pending.sent(), (unit, pending)
    if waiting is not None:
        waiting[0].update()
    return results


def summary(pending: BlockPass) -> LocalResult | None:
    """The result without its graph."""
    if pending.result is None:
        return None
    result = pending.result
    return LocalResult(result.loss.detach(), result.parts, result.scores, result.message_size)


def output_error(unit: BlockLearner, pending: BlockPass, target: Tensor) -> Tensor:
    """∂L/∂logits of the output block, [B, C] (softmax − target over the batch size, for cross-entropy)."""
    assert isinstance(unit.local, OutputLoss)
    logits = pending.sent().requires_grad_()
    return torch.autograd.grad(unit.local(logits, target).loss, logits)[0]
