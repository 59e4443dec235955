"""Values that say what blocks need, in bytes: of a pass, of a block, of a network."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

from blocklocal.streaming.update_bytes import Update


@dataclass(frozen=True)
class Pass:
    """Bytes that a forward and a backward pass make beside the parameters.

    Attributes:
        gradients: of the parameters.
        kept: what autograd keeps between the two.
        worst: all that is made, gradients too, at the worst moment.
        left: what of it is still there when the optimiser begins.
    """

    gradients: int
    kept: int
    worst: int
    left: int

    def peak(self, update: Update | None) -> int:
        """All that is made at the worst moment, the optimiser's temporaries too."""
        return max(self.worst, self.left + (update.temporaries if update else 0))


@dataclass(frozen=True)
class Footprint:
    """Bytes that one block needs.

    Attributes:
        index: of the block, from 0.
        parts: its parameters and buffers by what they are for: block, twin, readout, classifier, decoders, …
        largest: its largest tensor.
        local: its local step.
        update: its optimiser's; None: not known.
        plain: the block alone, without twin and local loss, as a part of a network that backprop trains.
        plain_update: its optimiser's then.
        received, sent: the forward messages that it gets and gives.
    """

    index: int
    parts: dict[str, int]
    largest: int
    local: Pass
    update: Update | None
    plain: Pass
    plain_update: Update | None
    received: int
    sent: int

    @property
    def weights(self) -> int:
        return sum(self.parts.values())

    @property
    def states(self) -> int:
        return self.update.states if self.update else 0

    @property
    def rests(self) -> int:
        """What rests at home: weights and the states of the optimiser."""
        return self.weights + self.states

    @property
    def plain_rests(self) -> int:
        """The same under backprop."""
        return self.parts["block"] + (self.plain_update.states if self.plain_update else 0)

    @property
    def step(self) -> int:
        """All that a local step makes at its worst moment, beside what rests."""
        return self.local.peak(self.update)

    @property
    def check(self) -> int:
        """Of looking for values that are not finite: a copy of the largest tensor, and two truth values for each."""
        return self.largest + self.largest // 2


@dataclass(frozen=True)
class Footprints:
    """Bytes of all blocks of a network.

    Attributes:
        blocks: of each.
        backprop: looks at the passes of backprop through all of them, which takes longer than all the rest.
        batch: a batch with its targets.
        rows: the target rows that twins start from.
    """

    blocks: list[Footprint]
    backprop: Callable[[], Pass] = field(compare=False)
    batch: int
    rows: int

    @cached_property
    def whole(self) -> Pass:
        """The passes of backprop through all blocks."""
        return self.backprop()
