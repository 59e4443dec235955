"""From the figures of a diagnosis to what to try: short sentences that name the block and the flag."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from blocklocal.diagnose.diagnosis import BlockDiagnosis
from blocklocal.network.settings import Learning
from blocklocal.rules import RULES, Rule
from blocklocal.training.observers import COLLAPSED, LAGS

LEARNS = 2.0  # points that a probe must read more off a block than off the untrained one
OPENS = 2.0  # points of the gap that open at one block: worth a sentence
FORGETS = 10.0  # points of the image's variance that a block keeps less than the block it is held against
READS = 5.0  # points that a probe reads more off a block than the block's own loss does
UNRELATED = 0.05  # cosine of two gradients below which they share no direction

Found = Sequence[tuple[int, BlockDiagnosis]]


@dataclass(frozen=True)
class _Flags:
    """Which settings the rule listens to, and what to try next of each."""

    learning: Learning
    rule: Rule

    @property
    def parts(self) -> bool:
        return self.rule.parts and self.rule.own_losses

    @property
    def readout(self) -> list[str]:
        """One layer more, up to the default: beyond it more layers gained nothing (experiments/accuracy)."""
        now = self.learning.readout
        return [f"--readout {now + 1}"] if self.parts and now < Learning().readout else []

    @property
    def reconstruction(self) -> list[str]:
        now = self.learning.reconstruction
        return [f"--reconstruction {2 * now if now else 1.0:g}"] if self.parts else []

    @property
    def scope(self) -> list[str]:
        return ["--scope neighbour"] if self.rule.reaches and self.learning.scope == "local" else []

    @property
    def objective(self) -> list[str]:
        """The evidence, where the user's choice was another objective."""
        another = self.rule.any_objective and self.learning.objective != "evidence"
        return ["--objective evidence"] if another else []


def find_hints(blocks: Sequence[BlockDiagnosis], learning: Learning, against: str | None = None) -> list[str]:
    """What stands out, most telling first, each with what to try; one sentence if nothing does.

    Thresholds are this module's constants.

    Args:
        against: the rule of the run held against.
    """
    rule = RULES.get(learning.rule)
    if len(blocks) == 1:
        return ["the network is one block, trained end to end: cut it (--blocks) for local learning."]
    if rule.whole:
        return [f"{rule.name} trains all blocks end to end: there is no local loss to change."]
    if not any(rule.trains(k, len(blocks)) for k in range(len(blocks) - 1)):
        return [f"{rule.name}: no block but the last learns, so there is nothing to change in them."]
    flags, hidden = _Flags(learning, rule), list(enumerate(blocks, 1))[:-1]
    hints = [
        *_collapsed(hidden, flags),
        *_idle(hidden, flags),
        *_opens(blocks, flags, against),
        *_forgets(hidden, flags, against),
        *_unread(hidden, flags),
        *_unrelated(hidden, flags),
        *_lags(hidden),
    ]
    return hints or ["nothing stands out: train longer, or hold it against a run of another rule (--against)."]


def _collapsed(hidden: Found, flags: _Flags) -> list[str]:
    found = _where(hidden, _has_collapsed)
    sizes = _list(f"{b.message:.2g}, before training {b.message_at_start:.2g}" for _, b in found)
    text = f"{_blocks(found)}: the backward message has collapsed (mean |b| {sizes})."
    return [text + _try(flags.objective or ["a smaller --weight-decay"])] if found else []


def _has_collapsed(block: BlockDiagnosis) -> bool:
    now, before = block.message, block.message_at_start
    return now is not None and before is not None and now < COLLAPSED * before


def _idle(hidden: Found, flags: _Flags) -> list[str]:
    found = _where(hidden, lambda b: b.frozen_probe is not None and b.probe < b.frozen_probe + LEARNS)
    figures = _list(f"{b.probe:.1f} %, untrained {b.frozen_probe:.1f} %" for _, b in found)
    text = f"{_blocks(found)}: a probe reads hardly more than off the untrained network ({figures})."
    return [text + _try(flags.objective or [*flags.readout, *flags.scope])] if found else []


def _opens(blocks: Sequence[BlockDiagnosis], flags: _Flags, against: str | None) -> list[str]:
    """Where most of the gap opens; the remedies for the last block lie before it."""
    known = [(b.added, k) for k, b in enumerate(blocks, 1) if b.added is not None]
    added, k = max(known, default=(0.0, 0))
    if added < OPENS:
        return []
    gap, last = blocks[k - 1].gap, k == len(blocks)
    assert gap is not None  # as `added` is
    stands = f"{abs(gap):.1f} {'ahead' if gap >= 0 else 'behind'}"
    text = f"block {k} ({blocks[k - 1].name}): most is lost here, {added:.1f} points; {against} is {stands}."
    if last:
        return [f"{text} This block learns as in backprop from what the others give.{_try(flags.scope)}"]
    return [text + _try([*flags.readout, *flags.scope, "another cut there (--at, or fewer --blocks)"])]


def _forgets(hidden: Found, flags: _Flags, against: str | None) -> list[str]:
    found = _where(hidden, lambda b: b.against_explained is not None and b.explained < b.against_explained - FORGETS)
    figures = _list(f"{b.explained:.0f} %, {against} {b.against_explained:.0f} %" for _, b in found)
    text = f"{_blocks(found)}: the output tells less of the image ({figures}); later blocks may need it."
    return [text + _try(flags.reconstruction)] if found else []


def _unread(hidden: Found, flags: _Flags) -> list[str]:
    """Where the twin is fixed, a block's own predictions are no aim of its loss."""
    if flags.rule.fixed_twin:
        return []
    found = _where(hidden, lambda b: b.own is not None and b.own < b.probe - READS)
    figures = _list(f"{b.own:.1f} %, a probe {b.probe:.1f} %" for _, b in found)
    text = f"{_blocks(found)}: the block's own loss reads less off the output than is there ({figures})."
    return [text + _try(flags.readout)] if found else []


def _unrelated(hidden: Found, flags: _Flags) -> list[str]:
    found = _where(hidden, lambda b: b.cosine is not None and b.cosine < UNRELATED)
    figures = _list(f"{b.cosine:.2f}" for _, b in found)
    text = f"{_blocks(found)}: the gradient shares no direction with backprop's (cosine {figures})."
    return [text + _try(flags.objective or [*flags.scope, *flags.readout])] if found else []


def _lags(hidden: Found) -> list[str]:
    found = [(k, b) for (_, before), (k, b) in pairwise(hidden) if b.probe < before.probe - LAGS]
    text = f"{_blocks(found)}: a probe reads less than off the block before."
    return [text + _try(["to cut elsewhere (--at, or fewer --blocks)"])] if found else []


def _where(hidden: Found, holds: Callable[[BlockDiagnosis], bool]) -> Found:
    return [(k, block) for k, block in hidden if holds(block)]


def _blocks(found: Found) -> str:
    """`block 2 (stage2.0–stage2.1)`, or `blocks 1, 2 and 3`."""
    if len(found) == 1:
        return f"block {found[0][0]} ({found[0][1].name})"
    numbers = [str(k) for k, _ in found]
    return f"blocks {', '.join(numbers[:-1])} and {numbers[-1]}" if numbers else ""


def _list(figures: Iterable[str]) -> str:
    return "; ".join(figures)


def _try(remedies: Sequence[str]) -> str:
    return f" Try {' or '.join(remedies)}." if remedies else ""
