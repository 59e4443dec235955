"""Early exit: a block runs for those samples alone of which the blocks before were not sure enough.

Every block predicts, so an answer is there after every block. By which rule it is enough (`ExitBy`):

    confidence   the block gives its answer a probability of at least its threshold
    together     all blocks asked so far, together, do (`targets.pooled`)
    agreement    the block does, and gives the answer of the block that was asked before it

A sequence is decided position by position, labels one by one: a sample runs on until all its answers are decided.
Blocks without a threshold are not asked, so their readouts cost nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from blocklocal._common.errors import InputError, unknown
from blocklocal._common.message import Given, Input, map_message, mask_after
from blocklocal.block.learner import BlockLearner
from blocklocal.block.targets import Targets, Values, pooled
from blocklocal.network.prediction import Prediction, check_weights

ExitBy = Literal["confidence", "together", "agreement"]


@dataclass(frozen=True)
class Exits:
    """When a sample leaves.

    Attributes:
        thresholds: of every block but the last: the confidence from which on its answer is enough; None: not asked.
        by: see above.
        temperatures: of every block: its logits are divided by it; none for 1 everywhere.
        together: of every block: the temperature of it and all asked before it together.
        weights: of every block: how much each block up to it counts in what they say together; none for the same each.

    Raises:
        InputError: the rule is unknown, a threshold is no probability, a temperature is not above 0, or weights are no
            shares of 1, or of blocks that are not asked.
    """

    thresholds: tuple[float | None, ...]
    by: ExitBy | str = "confidence"
    temperatures: tuple[float, ...] = ()
    together: tuple[float, ...] = ()
    weights: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        if self.by not in get_args(ExitBy):
            raise unknown("exit rule", self.by, get_args(ExitBy))
        for threshold in self.thresholds:
            if isinstance(threshold, bool):
                raise InputError(
                    f"a threshold is a probability, or None for a block that is not asked, not {threshold}."
                )
            if threshold is not None and not 0 <= threshold <= 1:
                raise InputError(f"a threshold is from 0 to 1, or None for a block that is not asked, not {threshold}.")
        for temperature in (*self.temperatures, *self.together):
            if not 0 < temperature < float("inf"):
                raise InputError(f"a temperature must be a finite number above 0, not {temperature}.")
        if self.by != "together":
            return
        for k, row in enumerate(self.weights):
            if self.asks(k):
                check_weights(row, k + 1)
            if any(weight and not self.asks(j) for j, weight in enumerate(row)):
                raise InputError(f"block {k + 1} counts blocks that are not asked: give them the weight 0, not {row}.")

    def check(self, count: int) -> None:
        """Look whether it is for a network of so many blocks.

        Args:
            count: of the blocks.

        Raises:
            InputError: it is for another number.
        """
        sizes = {len(each) for each in (self.temperatures, self.together, self.weights) if each}
        if len(self.thresholds) != count - 1 or sizes - {count}:
            raise InputError(
                f"exits with {len(self.thresholds)} thresholds are for {len(self.thresholds) + 1} blocks, and the "
                f"network has {count}: give one for every block but the last, and one temperature per block, or none."
            )

    def asks(self, k: int) -> bool:
        """Whether a block is asked; the last one always is.

        Args:
            k: its number, from 0.
        """
        return k >= len(self.thresholds) or self.thresholds[k] is not None

    def shares(self, k: int) -> tuple[float, ...]:
        """How much each block up to a block counts in what that one says.

        Args:
            k: its number, from 0.
        """
        if self.by != "together":
            return (0.0,) * k + (1.0,)
        if self.weights:
            return self.weights[k]
        asked = [self.asks(j) for j in range(k + 1)]
        return tuple(ask / sum(asked) for ask in asked)

    def temperature(self, k: int) -> float:
        """By what the logits of what a block says are divided.

        Args:
            k: its number, from 0.
        """
        temperatures = self.together if self.by == "together" else self.temperatures
        return temperatures[k] if temperatures else 1.0


@dataclass(frozen=True)
class EarlyPrediction(Prediction):
    """A prediction in which each answer is from the first block that was sure.

    Attributes:
        block: from which block the answer is, counted from 1: [B], or [B, T] of sequences, [B, L] of labels. 0 where
            there is none: padding that no block was sure of.
        ran: of how many samples each block has run.
    """

    block: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    ran: tuple[int, ...] = ()


@dataclass
class Answering:
    """What the blocks asked so far have said of the samples that still run; in the order of the blocks."""

    exits: Exits
    targets: Targets
    logits: list[Tensor | None] = field(default_factory=list)  # of every block so far, where they are needed
    before: Tensor | None = None  # the answers of the block that was asked last

    def say(self, k: int, logits: Tensor) -> tuple[Tensor, Tensor]:
        """The probabilities that block k (from 0) answers with, and where its answers are enough.

        Args:
            logits: its own, as `Targets.as_logits` gives them.
        """
        exits, targets = self.exits, self.targets
        if exits.by == "together":
            self.logits += [None] * (k - len(self.logits)) + [logits]
            logits = pooled(self.logits, exits.weights[k] if exits.weights else ())
        probabilities = targets.probabilities(logits / exits.temperature(k))
        answers, sure = targets.label(probabilities), targets.confidence(probabilities)
        if k >= len(exits.thresholds):
            return probabilities, torch.ones_like(sure, dtype=torch.bool)
        threshold = exits.thresholds[k]
        assert threshold is not None
        before, self.before = self.before, answers
        return probabilities, enough(exits.by, threshold, sure, answers, before)

    def keep(self, stay: Tensor) -> None:
        """Drop what belongs to samples that have left."""
        self.logits = [None if each is None else each[stay] for each in self.logits]
        self.before = None if self.before is None else self.before[stay]


def enough(by: ExitBy | str, threshold: float, sure: Tensor, answers: Tensor, before: Tensor | None) -> Tensor:
    """Where a block's answers are enough to leave.

    Args:
        by: the rule; under `together` sure and answers are those of all blocks asked so far.
        sure: the probabilities of the answers.
        before: the answers of the block that was asked last, None for the first one.
    """
    found = sure >= threshold
    if by == "agreement":
        found &= torch.zeros_like(found) if before is None else answers == before
    return found


@torch.no_grad()
def predict_early(
    learners: Sequence[BlockLearner], messages: Sequence[Tensor | None], x: Input, targets: Targets, exits: Exits
) -> EarlyPrediction:
    """The answers for a batch x [B, …], in the mode that the learners are in.

    Args:
        messages: every learner's backward message, or None.

    Raises:
        InputError: values or pixels are asked for, or the exits are for another number of blocks.
    """
    exits.check(len(learners))
    if isinstance(targets, Values):
        raise InputError("early exit needs classes, labels or tokens: of values no block gives a probability.")
    run = _Run(targets, exits)
    a: Any = x
    for k, (learner, message) in enumerate(zip(learners, messages, strict=True)):
        given, a = a, learner(a)
        run.begin(a)
        scores = learner.scores(a, message, mask_after(given, a)) if exits.asks(k) else None
        if scores is None:
            continue
        a = run.answer(k, targets.as_logits(scores).float(), mask_after(given, a), a)
        if a is None:
            break
    return run.end(len(learners))


class _Run:
    """The answers of a batch, while its samples go from block to block."""

    def __init__(self, targets: Targets, exits: Exits):
        self.targets, self.asked = targets, Answering(exits, targets)
        self.ran: list[int] = []
        self.at: Tensor | None = None  # the samples that still run
        self.found: Tensor | None = None  # the answers' probabilities, [B, …]
        self.decided, self.block = torch.empty(0), torch.empty(0)  # [B], [B, T] or [B, L]

    def begin(self, a: Given) -> None:
        """A block has run for the samples that are left."""
        lead = a if isinstance(a, Tensor) else a.hidden  # type: ignore[union-attr]
        if self.at is None:
            self.at = torch.arange(len(lead), device=lead.device)
        self.ran.append(len(lead))

    def answer(self, k: int, logits: Tensor, mask: Tensor | None, a: Given) -> Given | None:
        """Take the answers that are enough; what goes on, of the samples that are not decided. None: all are."""
        assert self.at is not None
        if logits.dim() > 3:
            raise InputError("early exit needs an answer per sample, label or position: pixels are not made for it.")
        probabilities, enough = self.asked.say(k, logits)
        if self.found is None:
            self.found = torch.zeros(len(self.at), *probabilities.shape[1:], device=logits.device)
            self.decided = torch.zeros_like(enough)
            self.block = torch.zeros_like(enough, dtype=torch.long)
        decided = self.decided[self.at]
        now = enough & ~decided
        wide = now if now.dim() == probabilities.dim() else now.unsqueeze(-1)
        self.found[self.at] = torch.where(wide, probabilities, self.found[self.at])
        self.block[self.at] = self.block[self.at].masked_fill(now, k + 1)
        decided |= now
        self.decided[self.at] = decided
        positions = decided.dim() == 2 and probabilities.dim() == 3  # else [B], or labels [B, L]
        waits = ~decided & mask if positions and mask is not None else ~decided  # for padding nothing waits
        stay = waits.flatten(1).any(1) if waits.dim() > 1 else waits
        if bool(stay.all()):
            return a
        if not bool(stay.any()):
            return None
        samples = len(self.at)
        self.at = self.at[stay]
        self.asked.keep(stay)
        return map_message(lambda t: t[stay] if t.dim() and len(t) == samples else t, a)

    def end(self, count: int) -> EarlyPrediction:
        """The answers."""
        assert self.found is not None
        ran = tuple(self.ran + [0] * (count - len(self.ran)))
        return EarlyPrediction(self.found, self.targets, block=self.block, ran=ran)
