"""The direction in which a rule moves each block, beside backprop's at the same weights."""

from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from blocklocal._common.message import Forward, Given
from blocklocal._common.seeds import seeded
from blocklocal.block.learner import BlockLearner
from blocklocal.block.loss import OutputLoss
from blocklocal.block.step import StepContext
from blocklocal.network.assembly import Whole
from blocklocal.network.network import BlockLocal
from blocklocal.report.table import mean
from blocklocal.rules import RULES
from blocklocal.rules.base import Batch
from blocklocal.splitting.copying import copy_module


def gradient_cosines(network: BlockLocal, batches: Iterable[tuple[Tensor, Tensor]]) -> list[float | None]:
    """Per block of the split, the cosine between its gradient under the rule and that of the output's loss.

    Over all weights of the forward block (not of twin, readout or decoder), a mean over batches (x [B, …], y [B]) in
    training mode, with the same dropout on both sides. 1 by construction for every block under backprop, and for the
    last one under all rules but feedback alignment; None for a block that the rule leaves as it is. Works on a copy:
    weights, statistics, late messages, gradients and mode of `network` stay.
    """
    scratch = copy_module(network)
    for learner in scratch.learners:
        learner.optimizer = None  # a step then leaves its gradients, and moves nothing
    found: list[list[float | None]] = [[] for _ in scratch.split.blocks]
    for x, y in batches:
        own, true = rule_gradients(scratch, x, y), backprop_gradients(scratch, x, y)
        for k, pair in enumerate(zip(own, true, strict=True)):
            found[k].append(cosine(*pair))
    return [mean(values) for values in found]


def rule_gradients(network: BlockLocal, x: Tensor, y: Tensor) -> list[list[Tensor | None]]:
    """What one step of the rule leaves in the parameters of every block, where no learner has an optimiser."""
    network.zero_grad(set_to_none=True)
    network.step(x, y)
    network.steps -= 1  # the same place in the random streams
    return _taken(network)


def backprop_gradients(network: BlockLocal, x: Tensor, y: Tensor) -> list[list[Tensor | None]]:
    """The gradients of the output's loss, taken back through all blocks by a step of the rule backprop."""
    if not network.training:
        network.train()
    network.zero_grad(set_to_none=True)
    context = StepContext(network.seed, network.steps)
    blocks = Whole(*(_OnItsStream(learner, context) for learner in network.learners))
    last = network.learners[-1]
    assert isinstance(last.local, OutputLoss)
    loss = OutputLoss(last.local.targets, last.local.smoothing, last.local.own)  # which sends nothing back
    whole = BlockLearner(blocks, loss, index=0)
    whole.autocast = last.autocast
    RULES.get("backprop").step([whole], Batch(x, y, network.rows, context))
    return _taken(network)


class _OnItsStream(nn.Module):
    """A learner's block inside a larger one, with the dropout that it has in a step of its own."""

    def __init__(self, learner: BlockLearner, context: StepContext):
        super().__init__()
        self.learner, self.context = learner, context

    def forward(self, a: Given) -> Forward:
        with seeded("block", self.context.seed, self.learner.index, self.context.step):
            return self.learner(a)


def _taken(network: BlockLocal) -> list[list[Tensor | None]]:
    """The gradients of every block's weights, which are dropped from them."""
    gradients = [[p.grad for p in weights_of(block)] for block in network.split.blocks]
    network.zero_grad(set_to_none=True)
    return gradients


def weights_of(block: nn.Module) -> list[nn.Parameter]:
    """Those that train."""
    return [p for p in block.parameters() if p.requires_grad]


def cosine(own: Sequence[Tensor | None], true: Sequence[Tensor | None]) -> float | None:
    """Of two gradients, each of one tensor per parameter; None where one of the two has no direction."""
    both = [(a.double(), b.double()) for a, b in zip(own, true, strict=True) if a is not None and b is not None]
    product = sum((a * b).sum().item() for a, b in both)
    sizes = [sum(g.double().square().sum().item() for g in side if g is not None) ** 0.5 for side in (own, true)]
    return product / (sizes[0] * sizes[1]) if all(sizes) else None
