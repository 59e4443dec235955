"""A diagnosis as plain text: two tables, one line per block, and the hints."""

from blocklocal._common.plain_table import table
from blocklocal.diagnose.diagnosis import Diagnosis
from blocklocal.report.table import NOTHING, number


def lines(diagnosis: Diagnosis) -> list[str]:
    """What the command prints."""
    other = diagnosis.against_rule
    names = [f"{k} {block.name}" for k, block in enumerate(diagnosis.blocks, 1)]
    blocks = diagnosis.blocks
    learning = {
        "cosine": [number(b.cosine, 2) for b in blocks],
        "mean |b|": [_size(b.message) for b in blocks],
        "at start": [_size(b.message_at_start) for b in blocks],
        "image %": [number(b.explained) for b in blocks],
        "frozen": [number(b.frozen_explained) for b in blocks],
    }
    accuracy = {
        "own %": [number(b.own) for b in blocks],
        "probe %": [number(b.probe) for b in blocks],
        "frozen": [number(b.frozen_probe) for b in blocks],
    }
    if other is not None:
        learning[other] = [number(b.against_explained) for b in blocks]
        accuracy[other] = [number(b.against_probe) for b in blocks]
        accuracy["gap"] = [number(b.gap, sign=True) for b in blocks]
        accuracy["added"] = [number(b.added, sign=True) for b in blocks]
    return [
        *table(names, learning),
        "",
        *table(names, accuracy),
        "",
        *_legend(diagnosis),
        "",
        *(f"- {hint}" for hint in diagnosis.hints),
    ]


def _legend(diagnosis: Diagnosis) -> list[str]:
    """What the columns are, and on which images they were measured."""
    learned = "" if diagnosis.scored_on == "validation" else " (learned ones: the run has no validation split)"
    scored = f"{diagnosis.scored} {diagnosis.scored_on} images{learned}"
    return [
        "cosine: of the block's gradient with backprop's; image: variance of the pixels that a linear map gets back;",
        "own: the block's predictions; probe: a linear classifier's; frozen: before training; added: to the gap, here.",
        f"Fitted on {diagnosis.fitted} training images, scored on {scored}.",
    ]


def _size(value: float | None) -> str:
    """A message may shrink or grow by orders of magnitude."""
    return NOTHING if value is None else f"{value:.3g}"
