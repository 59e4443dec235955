"""What other ways to train the same network would need: the formulas, each with the reason why.

They are about the network that the user gave, without twins and readouts, unless they train block by block.
"""

from dataclasses import dataclass

from blocklocal.streaming.plan import Plan

PARTS = 8  # micro-batches of gradient accumulation


@dataclass(frozen=True)
class Peer:
    """Another way to train.

    Attributes:
        name: of it.
        memory: bytes on the device, beside the process itself.
        home: bytes where weights rest that are not on the device.
        moved: bytes per step between the two.
    """

    name: str
    memory: int
    home: int = 0
    moved: float = 0.0


def peers(plan: Plan, *, parts: int = PARTS) -> list[Peer]:
    """The ways to train beside a streamed run, for batches of the same size.

    Args:
        parts: micro-batches of a batch, where gradients are accumulated.
    """
    return [in_memory(plan), backprop(plan), checkpointed(plan, 1), checkpointed(plan, parts), streamed_backprop(plan)]


def in_memory(plan: Plan) -> Peer:
    """Block-local, all in memory: everything rests there, and one block at a time takes its step."""
    steps = [block.step + block.received for block in plan.blocks]  # its input is there beside what it makes
    return Peer("block-local in memory", plan.rests + max(steps) + plan.needs.batch + plan.needs.rows)


def backprop(plan: Plan) -> Peer:
    """Backprop: weights and states rest there; what all layers keep, or all gradients and the update, comes on top."""
    whole, blocks = plan.needs.whole, plan.blocks
    temporaries = max((b.plain_update.temporaries for b in blocks if b.plain_update), default=0)
    peak = max(whole.worst, whole.gradients + temporaries)
    return Peer("backprop", _plain_rests(plan) + peak + plan.needs.batch)


def checkpointed(plan: Plan, parts: int) -> Peer:
    """Backprop with checkpoints.

    Only what crosses a cut is kept, and one block at a time is run again for its backward pass; all gradients are there
    at its end. In micro-batches, all but the gradients is `parts` times smaller.
    """
    blocks = plan.blocks
    kept = sum(block.received for block in blocks[1:])
    again = max(
        block.plain.worst - block.plain.gradients + _gradient_at_output(plan, k) for k, block in enumerate(blocks)
    )
    gradients = sum(block.plain.gradients for block in blocks)
    name = "  with checkpoints" if parts == 1 else f"  and {parts} micro-batches"
    temporaries = max((b.plain_update.temporaries for b in blocks if b.plain_update), default=0)
    peak = gradients + max((kept + again) // parts, temporaries)
    return Peer(name, _plain_rests(plan) + peak + plan.needs.batch)


def streamed_backprop(plan: Plan) -> Peer:
    """Backprop with weights at home.

    A block is read for the forward pass, and again with its states for the backward pass, and written after its update
    in it. So weights are moved three times per step, states twice, and no step can share that with another. All
    checkpoints are on the device meanwhile, and as many blocks as the plan has.
    """
    blocks = plan.blocks
    kept = sum(block.received for block in blocks[1:])
    peak = max(
        block.plain_rests + block.plain.peak(block.plain_update) + _gradient_at_output(plan, k) + _neighbours(plan, k)
        for k, block in enumerate(blocks)
    )
    weights = sum(block.parts["block"] for block in blocks)
    moved = 3 * weights + 2 * (_plain_rests(plan) - weights)
    return Peer("streamed backprop", peak + kept + plan.needs.batch, _plain_rests(plan), moved)


def _plain_rests(plan: Plan) -> int:
    return sum(block.plain_rests for block in plan.blocks)


def _neighbours(plan: Plan, k: int) -> int:
    sizes = [plan.blocks[n].plain_rests for n in (k - 1, k + 1) if 0 <= n < len(plan.blocks)]
    return sum(sorted(sizes, reverse=True)[: plan.most - 1])


def _gradient_at_output(plan: Plan, k: int) -> int:
    """What the block behind has passed back is as large as the message that it was sent."""
    return plan.blocks[k].sent if k + 1 < len(plan.blocks) else 0
