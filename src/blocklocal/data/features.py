"""How the columns of a table become numbers: found in the training part, kept with the run, used for every later row.

A sample is one row of float32: first the number columns, (value - mean) / std, each with an indicator behind it where
values are missing; then the categories, as whole numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import torch
from msgspec import Meta
from torch import Tensor

from blocklocal._common.errors import InputError, shown
from blocklocal._common.screen import printable
from blocklocal.data.frame import Frame, looks_like_number
from blocklocal.data.names import few, many

if TYPE_CHECKING:
    import pyarrow as pa

UNSEEN, ABSENT, SEEN = 0, 1, 2  # codes of a category that training did not have, of none, and of the first it had
MOST_CATEGORIES = 10_000
_MIXED = 0.5  # of the cells of a text column: so many numbers are numbers with mistakes among them
_NAMES = 0.5  # different texts per row: so many are names of rows
_FEW = 20  # different texts that are never names of rows
Text = Annotated[str, Meta(max_length=100_000)]


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        mean, std: of the numbers in the training part.
        indicator: whether values were missing there, so that a number says where one is.
        categories: the texts that were there, in alphabetical order.
    """

    name: Text
    kind: Literal["number", "category"]
    mean: float = 0.0
    std: float = 1.0
    indicator: bool = False
    categories: tuple[Text, ...] = ()


@dataclass(frozen=True)
class Features:
    """All columns that are used."""

    columns: tuple[Column, ...]

    @property
    def numbers(self) -> list[Column]:
        return [column for column in self.columns if column.kind == "number"]

    @property
    def categories(self) -> list[Column]:
        return [column for column in self.columns if column.kind == "category"]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Codes that there are of every category column."""
        return tuple(SEEN + len(column.categories) for column in self.categories)

    @property
    def width(self) -> int:
        """Numbers in one sample."""
        return len(self.numbers) + sum(column.indicator for column in self.numbers) + len(self.categories)

    def encode(self, frame: Frame) -> Tensor:
        """float32 [N, width] of the rows of a table.

        Raises:
            InputError: a column is missing, or holds texts where numbers were.
        """
        self._check_columns(frame)
        parts: list[np.ndarray] = []
        for column in self.numbers:
            values = numbers_of(frame, column.name)
            missing = np.isnan(values)
            scaled = (values - column.mean) / column.std
            parts.append(np.where(missing, 0.0, scaled))
            if column.indicator:
                parts.append(missing)
        parts += [_codes(frame, column) for column in self.categories]
        return torch.from_numpy(np.stack(parts, 1).astype(np.float32))

    def _check_columns(self, frame: Frame) -> None:
        missing = [column.name for column in (*self.numbers, *self.categories) if column.name not in frame.names]
        if missing:
            what = "column" if len(missing) == 1 else "columns"
            raise InputError(
                f"{frame.path} lacks the {what} {few([repr(name) for name in missing])}, from which the network was "
                f"trained to predict. It has {few(list(frame.names))}. Add what is missing; cells may be empty."
            )

    def lines(self) -> list[str]:
        """What is used, for people."""
        gaps = [column.name for column in self.numbers if column.indicator]
        lines = [f"columns: {many(len(self.numbers), 'number', 'numbers')}, standardised by the training part"]
        if self.categories:
            lines[0] += (
                f"; {many(len(self.categories), 'category', 'categories')} ({few([c.name for c in self.categories])})"
            )
        if gaps:
            lines.append(f"missing values: their mean, and a number that says so ({few(gaps)})")
        return lines


def find_features(
    frame: Frame, training: np.ndarray, leave: Sequence[str], categories: Sequence[str] = ()
) -> tuple[Features, list[str]]:
    """The columns of a table that say something, and lines about those that are left out.

    Args:
        training: places of the training rows.
        leave: columns that are no features, as the target.
        categories: columns that are categories although they hold numbers.

    Raises:
        InputError: a column of that name is not there, a column holds numbers and texts, or nothing is left.
    """
    for name in categories:
        frame.column(name)
    found: list[Column] = []
    left: dict[str, list[str]] = {}
    for name in frame.names:
        if name in leave:
            continue
        column = _look(frame, name, training, name in categories)
        if isinstance(column, Column):
            found.append(column)
        else:
            left.setdefault(column, []).append(name)
    if not found:
        raise InputError(f"{frame.path} has no column to learn from beside {few(list(leave))}{_reasons(left)}.")
    return Features(tuple(found)), [f"left out: {why} ({few(names)})" for why, names in left.items()]


def _reasons(left: dict[str, list[str]]) -> str:
    return "".join(f"; {few(names)}: {why}" for why, names in left.items())


def _look(frame: Frame, name: str, training: np.ndarray, category: bool) -> Column | str:
    """What a column is, or why it is left out."""
    if not category and is_number(frame.column(name)):
        values = numbers_of(frame, name)[training]
        known = values[~np.isnan(values)]
        gaps = len(known) < len(values)
        if not len(known) or (len(np.unique(known)) == 1 and not gaps):
            return "columns with one value in all training rows" if len(known) else "columns without values"
        mean, std = float(known.mean()), float(known.std())
        return Column(name, "number", mean, std if std > 1e-12 * abs(mean) else 1.0, gaps)
    texts = texts_of(frame, name)
    if texts is None:
        return "columns that are neither numbers nor texts"
    if not category:
        _check_mixed(frame, name, texts)
    inside = [texts[i] for i in training.tolist()]
    different = sorted({text for text in inside if text is not None})
    if len(different) + (None in inside) < 2:
        return "columns with one value in all training rows" if different else "columns without values"
    if len(different) > max(_FEW, _NAMES * len(inside)) or len(different) > MOST_CATEGORIES:
        return "columns with almost as many texts as rows, as names have them"
    return Column(name, "category", categories=tuple(different))


def is_number(column: pa.ChunkedArray) -> bool:
    """Whether a column holds numbers, truth values or points in time (or nothing)."""
    import pyarrow as pa

    t, kind = pa.types, column.type
    tests = (t.is_integer, t.is_floating, t.is_boolean, t.is_decimal, t.is_temporal, t.is_null)
    return any(test(kind) for test in tests)


def numbers_of(frame: Frame, name: str) -> np.ndarray:
    """float64 [N], NaN where missing; points in time as days.

    Raises:
        InputError: a value is a text, or infinite.
    """
    import pyarrow as pa

    column = frame.column(name)
    if pa.types.is_temporal(column.type) and not pa.types.is_duration(column.type):
        column = column.cast(pa.timestamp("us"), safe=False).cast(pa.int64())
        values = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False) / (86_400 * 1e6)
    elif is_number(column):
        values = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    else:
        values = _parsed(frame, name)
    values = np.asarray(values, dtype=np.float64)
    wrong = np.flatnonzero(np.isinf(values))
    if len(wrong):
        raise InputError(
            f"{frame.row(int(wrong[0]))}: {name} is infinite. Give a number, or nothing for a missing one."
        )
    return values


def _parsed(frame: Frame, name: str) -> np.ndarray:
    """The numbers in texts."""
    values = np.full(len(frame), np.nan)
    for i, text in enumerate(texts_of(frame, name) or [None] * len(frame)):
        if text is None:
            continue
        try:
            values[i] = float(text)
        except ValueError:
            raise InputError(
                f"{frame.row(i)}: {name} is {shown(text)}, and a number is expected, as in the training rows."
            ) from None
    return values


def texts_of(frame: Frame, name: str) -> list[str | None] | None:
    """The cells as texts, None where missing; None for a column of something else (lists, structures)."""
    import pyarrow as pa

    column = frame.column(name)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type) or is_number(column)):
        return None
    return [None if value is None else printable(str(value), lines=False) for value in column.to_pylist()]


def _check_mixed(frame: Frame, name: str, texts: list[str | None]) -> None:
    """Raise InputError for numbers with texts among them."""
    known = [(i, text) for i, text in enumerate(texts) if text is not None]
    words = [(i, text) for i, text in known if not looks_like_number(text)]
    if words and len(words) < _MIXED * len(known):
        i, text = words[0]
        raise InputError(
            f"{frame.row(i)}: {name} is {shown(text)}, and most of its column are numbers. Mend it, leave it empty, or "
            f"say that the column holds categories (--categories {name})."
        )


def _codes(frame: Frame, column: Column) -> np.ndarray:
    texts = texts_of(frame, column.name)
    if texts is None:
        raise InputError(f"{frame.path}: the column {column.name} holds neither texts nor numbers, as it did before.")
    codes = {text: SEEN + i for i, text in enumerate(column.categories)}
    return np.array([ABSENT if text is None else codes.get(text, UNSEEN) for text in texts], dtype=np.float64)
