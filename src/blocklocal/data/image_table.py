"""A table of image files and their labels, as it was read.

Columns are found by name, in any case: `FILE_COLUMNS` and `LABEL_COLUMNS`; other columns are not looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from blocklocal._common.errors import InputError
from blocklocal.data.answers import Answers
from blocklocal.data.roles import role_of

FILE_COLUMNS = ("file_name", "filename", "file", "image", "image_name", "image_path", "img", "path", "file_path")
LABEL_COLUMNS = ("label", "labels", "class", "class_name", "category", "target")
SPLIT_COLUMNS = ("split", "subset")


@dataclass(frozen=True)
class Table:
    """A table as it was read: all its columns, and rows as (line in the file, cells of the columns looked at).

    Attributes:
        label: the label column, where somebody has named it.
        asked: the columns of the targets and what they are, where these are not the names of classes.
        targets: those of every row then, by its line.
    """

    path: Path
    columns: tuple[str, ...]
    rows: list[tuple[int, dict[str, object]]]
    label: str = ""
    asked: Answers | None = None
    targets: Mapping[int, Sequence[float]] = field(default_factory=dict)

    @cached_property
    def file_column(self) -> str:
        """The column that names files; "" for none, and so for the others."""
        return find_column(FILE_COLUMNS, self.columns)

    @cached_property
    def label_column(self) -> str:
        return self.label or find_column(LABEL_COLUMNS, self.columns)

    @cached_property
    def split_column(self) -> str:
        return find_column(SPLIT_COLUMNS, self.columns)

    @cached_property
    def no_label(self) -> tuple[str, ...]:
        """What stands in the place of a label that is not known; -1 and 1 alone are two classes."""
        labels = {str(cells.get(self.label_column, "")).strip() for _, cells in self.rows}
        return ("",) if labels == {"-1", "1"} else ("", "-1")

    @cached_property
    def labelled(self) -> bool:
        """Whether it names files and, for any of them, a label."""
        if not self.file_column or not self.label_column:
            return False
        return self.asked is not None or any(
            str(cells[self.label_column]).strip() not in self.no_label for _, cells in self.rows
        )

    @cached_property
    def roles(self) -> list[str]:
        """The splits that its split column names; none without such a column, or where no name in it is a split's.

        Raises:
            InputError: the column names splits and something else.
        """
        if not self.split_column:
            return []
        named = [(line, self.text(line, cells, self.split_column)) for line, cells in self.rows]
        found = {role_of(name) for _, name in named}
        if None in found and len(found) > 1:
            line, other = next((line, name) for line, name in named if role_of(name) is None)
            raise InputError(
                f"{self.path}, line {line}: {self.split_column} is {other!r}, which is no split, and other lines name "
                "splits. Give every line train, validation or test, or rename the column."
            )
        return [] if None in found else sorted(role for role in found if role)

    def names_files_in(self, folder: Path, root: Path) -> bool:
        """Whether its paths, counted from `root`, lead into `folder`."""
        return any(inside(root / str(cells[self.file_column]), folder) for _, cells in self.rows)

    def text(self, line: int, cells: dict[str, object], column: str) -> str:
        """A cell as text.

        Raises:
            InputError: it is a list or an object.
        """
        value = cells[column]
        if isinstance(value, list | dict):
            raise InputError(f"{self.path}, line {line}: {column} is {str(value)[:80]}. Expected one name or number.")
        return str(value).strip()


def inside(path: Path, folder: Path) -> bool:
    """Whether a file lies in a folder, or below it."""
    return folder in path.parents


def find_column(candidates: Sequence[str], columns: Sequence[str]) -> str:
    """The first of the candidates that is a column, as it is written there; "" where none is."""
    by_name = {column.lower(): column for column in reversed(columns)}
    return next((by_name[name] for name in candidates if name in by_name), "")
