"""What was found, per block and of the whole: plain values, as `diagnosis.json` has them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from blocklocal.diagnose.measure import Measured


@dataclass(frozen=True)
class BlockDiagnosis:
    """One block. Accuracies and shares in percent, gap and added in percentage points; None where there is none.

    Attributes:
        cosine: between the gradient that the rule gives the block and backprop's.
        message: mean |b| of its backward message.
        message_at_start: mean |b| before training.
        own: accuracy of its own predictions.
        probe: accuracy of a linear probe of its output.
        frozen_probe, against_probe: the same of the untrained network, and of the run held against.
        gap: against_probe − probe.
        added: what of the gap opens here.
        explained: the share of the pixels' variance that a linear map gets back from its output.
        frozen_explained, against_explained: the same of the untrained network, and of the run held against.
    """

    name: str
    cosine: float | None
    message: float | None
    message_at_start: float | None
    own: float | None
    probe: float
    frozen_probe: float | None
    against_probe: float | None
    gap: float | None
    added: float | None
    explained: float
    frozen_explained: float | None
    against_explained: float | None


@dataclass(frozen=True)
class DiagnosedRun:
    """What was looked at.

    Attributes:
        against: the folder of the run held against; None without one.
        against_rule: its rule.
        fitted, scored: numbers of images, of a text of tokens.
        scored_on: validation or training (what the run has learned, where it has no validation split).
    """

    run: str
    rule: str
    checkpoint: str
    against: str | None
    against_rule: str | None
    fitted: int
    scored: int
    scored_on: str

    def flat(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


@dataclass(frozen=True)
class Diagnosis(DiagnosedRun):
    """A diagnosed run.

    Attributes:
        left_out: what could not be looked at with one block at a time in memory, and why.
    """

    blocks: list[BlockDiagnosis]
    hints: list[str]
    left_out: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Messages:
    """Mean |b| per block, now and before training; None where there is no message."""

    now: Sequence[float | None]
    at_start: Sequence[float | None]


def assemble(
    names: Sequence[str],
    cosines: Sequence[float | None],
    messages: Messages,
    measured: Sequence[Measured | None],
) -> list[BlockDiagnosis]:
    """One value per block from one list per figure.

    The frozen network's last block has no figures: in the control it would learn.

    Args:
        measured: the run, the frozen network, the run held against.
    """
    run, frozen, against = measured
    assert run is not None
    assert frozen is not None
    last, blocks, before = len(names) - 1, [], 0.0
    for k, name in enumerate(names):
        gap = None if against is None else against.probe[k] - run.probe[k]
        blocks.append(
            BlockDiagnosis(
                name=name,
                cosine=cosines[k],
                message=messages.now[k],
                message_at_start=messages.at_start[k],
                own=run.own[k],
                probe=run.probe[k],
                frozen_probe=frozen.probe[k] if k < last else None,
                against_probe=None if against is None else against.probe[k],
                gap=gap,
                added=None if gap is None else gap - before,
                explained=run.explained[k],
                frozen_explained=frozen.explained[k] if k < last else None,
                against_explained=None if against is None else against.explained[k],
            )
        )
        before = gap or 0.0
    return blocks
