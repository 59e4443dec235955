"""Tables of image files and their labels: `labels.csv`, `metadata.csv` or `.jsonl`, one per split or one for all.

Columns are found by name, in any case: `FILE_COLUMNS` and `LABEL_COLUMNS`; other columns are not looked at.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TextIO

from blocklocal._common.errors import InputError, shown
from blocklocal._common.limits import check_memory
from blocklocal._common.screen import printable
from blocklocal.data.listing import Listing
from blocklocal.data.names import class_names, few, in_order
from blocklocal.data.roles import role_of
from blocklocal.data.scan import UNNAMED, LeftOut, files_directly_in, is_image, list_images
from blocklocal.data.source import Unlabelled

FILE_COLUMNS = ("file_name", "filename", "file", "image", "image_name", "image_path", "img", "path", "file_path")
LABEL_COLUMNS = ("label", "labels", "class", "class_name", "category", "target")
SPLIT_COLUMNS = ("split", "subset")
_SUFFIXES = (".csv", ".jsonl")
_ROW_COST = 50  # bytes in memory for a byte of the file, at most about
_WHOLE = ("labels", "metadata")
_ROLE_STEM = re.compile(r"(.+?)(?:[_-](?:labels|metadata))?")


@dataclass(frozen=True)
class Table:
    """A table as it was read: all its columns, and rows as (line in the file, cells of the columns looked at)."""

    path: Path
    columns: tuple[str, ...]
    rows: list[tuple[int, dict[str, object]]]

    @cached_property
    def file_column(self) -> str:
        """The column that names files; "" for none, and so for the others."""
        return _find(FILE_COLUMNS, self.columns)

    @cached_property
    def label_column(self) -> str:
        return _find(LABEL_COLUMNS, self.columns)

    @cached_property
    def split_column(self) -> str:
        return _find(SPLIT_COLUMNS, self.columns)

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
        return any(str(cells[self.label_column]).strip() not in self.no_label for _, cells in self.rows)

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
        return any(_inside(root / str(cells[self.file_column]), folder) for _, cells in self.rows)

    def text(self, line: int, cells: dict[str, object], column: str) -> str:
        """A cell as text.

        Raises:
            InputError: it is a list or an object.
        """
        value = cells[column]
        if isinstance(value, list | dict):
            raise InputError(f"{self.path}, line {line}: {column} is {str(value)[:80]}. Expected one name or number.")
        return str(value).strip()


def find_tables(folder: Path) -> dict[str | None, Table]:
    """Role → the table of that split; None → the table of everything.

    Raises:
        InputError: two tables have one role.
    """
    found: dict[str | None, Table] = {}
    for path in files_directly_in(folder, _SUFFIXES):
        role = role_of_table(path)
        if role is None and path.stem.lower() not in _WHOLE:
            continue
        table = _read(path)
        if role in found and found[role].labelled and table.labelled:
            raise InputError(f"{found[role].path} and {path} both name labels. Keep one of them.")
        if role not in found or not found[role].labelled:
            found[role] = table
    return found


def list_table(
    table: Table, bases: Sequence[Path], origin: str, *, within: Path | None = None, role: str | None = None
) -> Listing | Unlabelled:
    """The files that a table names, with their labels.

    Args:
        bases: the folders from which its paths may count.
        within: take the files below this folder alone.
        role: take the rows of this split alone.

    Raises:
        InputError: a file is not there or named twice, or a row has no label.
    """
    said = f"{origin}, labels from {table.path.name}"
    if not table.labelled:
        missing = "no label in its label column" if table.label_column else "no label column"
        return Unlabelled(origin, f"{table.path.name} has {missing}; its columns are {few(table.columns)}")
    files: dict[Path, str] = {}
    for line, cells in table.rows:
        if role is not None and role_of(table.text(line, cells, table.split_column)) != role:
            continue
        path = _locate(table, line, table.text(line, cells, table.file_column), bases)
        if within is not None and not _inside(path, within):
            continue
        label = table.text(line, cells, table.label_column)
        if label in table.no_label:
            raise InputError(f"{table.path}, line {line}: {path.name} has no label. Give it one, or remove the line.")
        if path in files:
            raise InputError(f"{table.path}, line {line}: {path.name} is named a second time. Keep one of the lines.")
        files[path] = printable(label, lines=False)
    if not files:
        raise InputError(f"{table.path} names no files of {origin}. Name every image and its label.")
    classes = class_names(in_order(files.values()), str(table.path))
    left = LeftOut() if role_of_table(table.path) or table.roles else _unnamed(table, files, within)
    return Listing(list(files), list(files.values()), classes, said, left.notes(), (table.path,))


def role_of_table(path: Path) -> str | None:
    """The split that a table's name says: "train" for train.csv and train_labels.csv; None for labels.csv."""
    stem = path.stem.lower()
    found = None if stem in _WHOLE else _ROLE_STEM.fullmatch(stem)
    return role_of(found[1]) if found else None


def _unnamed(table: Table, files: dict[Path, str], within: Path | None) -> LeftOut:
    """The images beside those that the table names."""
    left = LeftOut()
    folder = within or _common(files, table.path.parent)
    others = [path for path in list_images(folder, LeftOut()) if path not in files]
    if others:
        left.add(UNNAMED, others[0].name, len(others))
    return left


def _common(files: dict[Path, str], top: Path) -> Path:
    """The folder that all files lie in, below `top`."""
    parents = {path.parent for path in files}
    only = next(iter(parents))
    return only if len(parents) == 1 else top


def _locate(table: Table, line: int, name: str, bases: Sequence[Path]) -> Path:
    if not name:
        raise InputError(f"{table.path}, line {line}: the file name is empty. Name the image, or remove the line.")
    for base in bases:
        try:
            if (base / name).exists():
                return base / name
        except (OSError, ValueError):  # a name that no file can have
            continue
    hint = "" if is_image(Path(name)) else " Names need their suffix, such as .png."
    raise InputError(
        f"{table.path}, line {line}: there is no file {shown(name)} in {', '.join(map(str, bases))}.{hint} Correct the "
        "name, or remove the line."
    )


def _inside(path: Path, folder: Path) -> bool:
    return folder in path.parents


def _find(candidates: Sequence[str], columns: Sequence[str]) -> str:
    by_name = {column.lower(): column for column in reversed(columns)}
    return next((by_name[name] for name in candidates if name in by_name), "")


def _read(path: Path) -> Table:
    check_memory(f"the rows of {path}", _ROW_COST * path.stat().st_size, "move it away if it names no images")
    read = _read_json if path.suffix.lower() == ".jsonl" else _read_csv
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            return read(file, path)
    except (OSError, csv.Error) as error:
        raise InputError(f"cannot read {path}: {error}. Write it again as UTF-8 text.") from error


def _read_csv(file: TextIO, path: Path) -> Table:
    """Cells are separated by what the first line has most of: commas, semicolons or tabs."""
    first = file.readline()
    file.seek(0)
    reader = csv.reader(file, delimiter=max(",;\t", key=first.count))
    header = tuple(name.strip() for name in next(reader, []))
    wanted = _wanted(header)
    rows: list[tuple[int, dict[str, object]]] = []
    for row in reader if _names_labels(wanted) else ():  # of other tables, however large, nothing is kept
        if any(cell.strip() for cell in row):
            cells = dict(zip(header, [*row, *[""] * len(header)], strict=False))
            rows.append((reader.line_num, {name: cells[name] for name in wanted}))
    return Table(path, header, rows)


def _read_json(file: TextIO, path: Path) -> Table:
    rows: list[tuple[int, dict[str, object]]] = []
    columns: dict[str, None] = {}
    for number, line in enumerate(file, start=1):
        if line.strip():
            cells = _json_object(line, f"{path}, line {number}")
            columns.update(dict.fromkeys(cells))
            rows.append((number, {name: cells[name] for name in _wanted(tuple(cells))}))
    wanted = _wanted(tuple(columns))
    for _, cells in rows:
        cells.update({name: "" for name in wanted if cells.get(name) is None})
    return Table(path, tuple(columns), rows)


def _wanted(columns: Sequence[str]) -> tuple[str, ...]:
    """Those of the columns that are looked at."""
    return tuple(filter(None, (_find(names, columns) for names in (FILE_COLUMNS, LABEL_COLUMNS, SPLIT_COLUMNS))))


def _names_labels(wanted: Sequence[str]) -> bool:
    return all(_find(names, wanted) for names in (FILE_COLUMNS, LABEL_COLUMNS))


def _json_object(line: str, where: str) -> dict[str, object]:
    try:
        cells = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: this is no JSON ({error}).") from error
    if not isinstance(cells, dict):
        raise InputError(f'{where}: expected an object like {{"file_name": "a.png", "label": "cat"}}.')
    return cells
