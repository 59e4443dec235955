"""What the columns of a table of images ask for, where it is not one class per image: binary labels, or values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from blocklocal._common.choices import TargetKind
from blocklocal._common.errors import InputError
from blocklocal.data.answers import Answers, answers_of, find_answers
from blocklocal.data.frame import MISSING, Frame, looks_like_number
from blocklocal.data.image_table import Table


def with_targets(table: Table, columns: Sequence[str], kind: TargetKind) -> tuple[Table, str]:
    """The table with the targets in its columns, and a line about them; as it is and "" where they are class names.

    A single column holds values where it holds a number with a fraction: whole numbers are the names of classes.

    Args:
        table: with these columns.
        columns: of the targets.
        kind: what they are; "auto" to find out.

    Raises:
        InputError: they hold something else.
    """
    if kind == "shares":
        raise InputError("shares of classes are for tables of rows: for images, --mix makes them while training.")
    frame = _frame(table, columns)
    if len(columns) == 1 and (kind == "classes" or (kind == "auto" and not _has_fractions(frame, columns[0]))):
        return table, ""
    answers, why = find_answers(frame, columns, "values" if len(columns) == 1 else kind)
    found, there = answers_of(frame, columns, answers)
    lines = [line for line, _ in table.rows]
    targets = {lines[i]: row for i, row in zip(there.tolist(), found.tolist(), strict=True)}
    return replace(table, asked=answers, targets=targets), answers.line(columns, "numbers" if kind == "auto" else why)


def targets_of(table: Table, lines: Sequence[int]) -> Tensor:
    """Those of the rows in these lines: float32 [N, V] or int64 [N, L]."""
    assert isinstance(table.asked, Answers)
    whole = table.asked.kind == "labels"
    return torch.tensor([table.targets[line] for line in lines], dtype=torch.int64 if whole else torch.float32)


def _frame(table: Table, columns: Sequence[str]) -> Frame:
    """The columns as numbers, where all their cells are such, else as texts; in rows without a file too."""
    import pyarrow as pa

    made = {}
    for name in columns:
        cells = [table.text(line, row, name) for line, row in table.rows]
        known = [None if cell in MISSING else {"True": "1", "False": "0"}.get(cell, cell) for cell in cells]
        if all(cell is None or looks_like_number(cell) for cell in known):
            made[name] = pa.array([None if cell is None else float(cell.replace(",", ".")) for cell in known])
        else:
            made[name] = pa.array(cells, pa.string())
    return Frame(table.path, pa.table(made))


def _has_fractions(frame: Frame, name: str) -> bool:
    return any(isinstance(value, float) and value % 1 for value in frame.column(name).to_pylist())
