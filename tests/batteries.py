"""Batteries: many values of several settings against each other, without every combination in every run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

EACH = 3  # of so many combinations, one is in the default run


def thinned(rows: Sequence[Any], columns: Sequence[Any]) -> list[Any]:
    """All pairs for `parametrize`; those along every third diagonal are in the default run, the others slow.

    In the default run, every row stands beside a third of the columns, and every column beside a third of the rows,
    but each beside one at least.
    """
    default = {(i, j) for i in range(len(rows)) for j in range(len(columns)) if (i + j) % EACH == 0}
    default |= {(i, i % len(columns)) for i in range(len(rows)) if not any(row == i for row, _ in default)}
    default |= {(j % len(rows), j) for j in range(len(columns)) if not any(column == j for _, column in default)}
    return [
        (row, column) if (i, j) in default else pytest.param(row, column, marks=pytest.mark.slow)
        for i, row in enumerate(rows)
        for j, column in enumerate(columns)
    ]
