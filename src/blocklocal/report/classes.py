"""The report's section on classes: accuracy of every class, and what is taken for what.

Two forms: classes exclude each other and have a confusion matrix; binary labels are asked one by one.
"""

from collections import defaultdict
from typing import Any

from blocklocal.report.table import NOTHING, number
from blocklocal.schemas.run import Confusion

MOST = 30  # classes that are all shown; of more, this many with the lowest accuracy
MISTAKES = 10  # that are listed where there are too many classes for a matrix
SHORT = 3  # letters of a name that fits over a column of the matrix
CLASS_HEADINGS = ("class", "accuracy %", "in the test set", "right when said %", "most often taken for")
LABEL_HEADINGS = ("label", "accuracy %", "in the test set", "yes among them", "yes found %", "right when said yes %")
Matrix = dict[int, dict[int, int]]  # row asked for → row answered → how often


def class_section(confusion: Confusion | None) -> dict[str, Any] | None:
    """Fields of the template about classes and confusions; None where nothing was counted.

    Returns:
        kind, headings, rows, count, untested, matrix and mistakes. Rows are worst first, at most `MOST`, each with
        name, accuracy (text), share (percent, for a bar) and the other cells. `count` is how many were tested,
        `untested` how many were not. The matrix is None for labels and for more than `MOST` classes, whose most
        frequent mistakes are listed instead.
    """
    if confusion is None or not confusion.counts:
        return None
    matrix: Matrix = defaultdict(dict)
    for asked, answered, count in confusion.counts:
        matrix[asked][answered] = count
    classes, names = confusion.of == "classes", confusion.names
    describe = _class_row if classes else _label_row
    said = _column_sums(matrix)
    rows = [row for k in range(len(names)) if (row := describe(matrix, said, names, k))]
    rows.sort(key=lambda row: row["share"])
    small = len(names) <= MOST
    return {
        "kind": "class" if classes else "label",
        "headings": CLASS_HEADINGS if classes else LABEL_HEADINGS,
        "rows": rows if small else rows[:MOST],
        "count": len(rows),
        "untested": len(names) - len(rows),
        "matrix": _matrix(matrix, names) if classes and small else None,
        "mistakes": _mistakes(matrix, names) if classes and not small else [],
    }


def _column_sums(matrix: Matrix) -> dict[int, int]:
    sums: dict[int, int] = defaultdict(int)
    for row in matrix.values():
        for answered, count in row.items():
            sums[answered] += count
    return sums


def _class_row(matrix: Matrix, said: dict[int, int], names: list[str], k: int) -> dict[str, Any] | None:
    """None for a class of which nothing was tested."""
    row = matrix.get(k, {})
    total, right = sum(row.values()), row.get(k, 0)
    if not total:
        return None
    worst = max((answered for answered in row if answered != k), key=lambda answered: row[answered], default=None)
    taken = NOTHING if worst is None else f"{names[worst]} ({row[worst]:,})"
    return _row(names[k], right / total, [f"{total:,}", _percent(right, said[k]), taken])


def _label_row(matrix: Matrix, said: dict[int, int], names: list[str], k: int) -> dict[str, Any] | None:
    no, yes = matrix.get(2 * k, {}), matrix.get(2 * k + 1, {})
    total, asked_yes = sum(no.values()) + sum(yes.values()), sum(yes.values())
    if not total:
        return None
    found = yes.get(2 * k + 1, 0)
    right = (no.get(2 * k, 0) + found) / total
    cells = [f"{total:,}", f"{asked_yes:,}", _percent(found, asked_yes), _percent(found, said[2 * k + 1])]
    return _row(names[k], right, cells)


def _row(name: str, share: float, cells: list[str]) -> dict[str, Any]:
    return {"name": name, "accuracy": number(100 * share), "share": round(100 * share, 2), "cells": cells}


def _percent(part: int, whole: int) -> str:
    return number(100 * part / whole) if whole else NOTHING


def _matrix(matrix: Matrix, names: list[str]) -> dict[str, Any]:
    """upright: whether the names fit over the columns; rows: (name, cells), a cell (text, share of its row, title)."""
    rows = []
    for k, name in enumerate(names):
        row = matrix.get(k, {})
        total = sum(row.values())
        cells = []
        for j, other in enumerate(names):
            count = row.get(j, 0)
            title = f"{name} taken for {other}: {count:,} of {total:,}" if count else ""
            cells.append((f"{count:,}" if count else "", round(count / max(total, 1), 3), title))
        rows.append((name, cells))
    return {"names": names, "upright": all(len(name) <= SHORT for name in names), "rows": rows}


def _mistakes(matrix: Matrix, names: list[str]) -> list[str]:
    """The most frequent ones, a sentence each."""
    wrong = [(count, k, j) for k, row in matrix.items() for j, count in row.items() if j != k]
    worst = sorted(wrong, key=lambda each: (-each[0], each[1:]))[:MISTAKES]
    return [f"{names[k]} taken for {names[j]}: {count:,} of {sum(matrix[k].values()):,}" for count, k, j in worst]
