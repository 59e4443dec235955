"""Tables of image files as they are read: CSV, JSON lines, parquet."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import TextIO

from blocklocal._common.errors import InputError, unknown
from blocklocal._common.limits import check_memory
from blocklocal.data.image_table import FILE_COLUMNS, LABEL_COLUMNS, SPLIT_COLUMNS, Table, find_column
from blocklocal.data.names import few
from blocklocal.data.scan import is_image

SUFFIXES = (".csv", ".jsonl")
_ROW_COST = 50  # bytes in memory for a byte of the file, at most about


def read_table(path: Path, labels: Sequence[str] = ()) -> Table:
    """A table of image files: CSV, JSON lines or parquet.

    Args:
        path: of the table.
        labels: the names of its label columns; none for the first of `LABEL_COLUMNS` that it has.

    Raises:
        InputError: it cannot be read, has no such column, or none that names files.
    """
    table = _read_parquet(path, labels) if path.suffix.lower() == ".parquet" else read_text(path, labels)
    for label in labels:
        if label not in table.columns:
            raise InputError(f"{path}: {unknown('column', label, table.columns)}")
    for kind, column in (("file", table.file_column), ("label", table.label_column)):
        if not column:
            raise InputError(
                f"{path} has the columns {few(table.columns)}: none of them is called {kind}. Rename the one that "
                f"holds {'the paths of the images' if kind == 'file' else 'the labels, or name it by --target'}."
            )
    return table


def names_images(path: Path) -> bool:
    """Whether a file is a table whose first row names an image."""
    if path.suffix.lower() not in (*SUFFIXES, ".parquet") or not path.is_file():
        return False
    if path.suffix.lower() == ".parquet":
        table = _first_rows(path)
    else:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            start = StringIO("".join(islice(file, 2)))
        table = (_read_json if path.suffix.lower() == ".jsonl" else _read_csv)(start, path, every=True)
    named = [cells.get(table.file_column) for _, cells in table.rows if table.file_column]
    return bool(named) and is_image(Path(str(named[0])))


def _first_rows(path: Path) -> Table:
    """The first row of a parquet file; none of one that cannot be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            columns = tuple(file.schema_arrow.names)
            found = find_column(FILE_COLUMNS, columns)
            batch = next(file.iter_batches(1, columns=[found]), None) if found else None
            cells = [] if batch is None else batch.to_pylist()
    except (pa.ArrowException, OSError):
        return Table(path, (), [])
    return Table(path, columns, [(1, row) for row in cells])


def _read_parquet(path: Path, labels: Sequence[str]) -> Table:
    """Rows count from 1; what is null is empty."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        columns = tuple(pq.read_schema(path).names)
        wanted = [name for name in _wanted(columns, labels) if name in columns]
        rows = pq.read_table(path, columns=wanted).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"cannot read {path} as parquet: {error}. Write it again.") from error
    cells = [{name: "" if value is None else value for name, value in row.items()} for row in rows]
    return Table(path, columns, list(enumerate(cells, start=1)), _first(labels))


def read_text(path: Path, labels: Sequence[str] = ()) -> Table:
    """A CSV, or JSON lines, of whatever columns."""
    check_memory(f"the rows of {path}", _ROW_COST * path.stat().st_size, "move it away if it names no images")
    read = _read_json if path.suffix.lower() == ".jsonl" else _read_csv
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            return read(file, path, labels)
    except (OSError, csv.Error) as error:
        raise InputError(f"cannot read {path}: {error}. Write it again as UTF-8 text.") from error


def _read_csv(file: TextIO, path: Path, labels: Sequence[str] = (), *, every: bool = False) -> Table:
    """Cells are separated by what the first line has most of: commas, semicolons or tabs.

    Args:
        file: the text.
        path: its name.
        labels: see `read_table`.
        every: keep the rows of a table that gives no labels too.
    """
    first = file.readline()
    file.seek(0)
    reader = csv.reader(file, delimiter=max(",;\t", key=first.count))
    header = tuple(name.strip() for name in next(reader, []))
    wanted = tuple(name for name in _wanted(header, labels) if name in header)
    kept = every or _names_labels(wanted) or bool(set(labels) & set(header))
    rows: list[tuple[int, dict[str, object]]] = []
    for row in reader if kept else ():  # of other tables, however large, nothing is kept
        if any(cell.strip() for cell in row):
            cells = dict(zip(header, [*row, *[""] * len(header)], strict=False))
            rows.append((reader.line_num, {name: cells[name] for name in wanted}))
    return Table(path, header, rows, _first(labels))


def _read_json(file: TextIO, path: Path, labels: Sequence[str] = (), *, every: bool = False) -> Table:
    rows: list[tuple[int, dict[str, object]]] = []
    columns: dict[str, None] = {}
    for number, line in enumerate(file, start=1):
        if line.strip():
            cells = _json_object(line, f"{path}, line {number}")
            columns.update(dict.fromkeys(cells))
            rows.append((number, {name: cells[name] for name in _wanted(tuple(cells), labels) if name in cells}))
    wanted = _wanted(tuple(columns), labels)
    for _, cells in rows:
        cells.update({name: "" for name in wanted if cells.get(name) is None})
    return Table(path, tuple(columns), rows, _first(labels))


def _wanted(columns: Sequence[str], labels: Sequence[str] = ()) -> tuple[str, ...]:
    """Those of the columns that are looked at."""
    found = [find_column(names, columns) for names in (FILE_COLUMNS, LABEL_COLUMNS, SPLIT_COLUMNS)]
    return tuple(dict.fromkeys(filter(None, (*found, *labels))))


def _first(labels: Sequence[str]) -> str:
    return labels[0] if labels else ""


def _names_labels(wanted: Sequence[str]) -> bool:
    return all(find_column(names, wanted) for names in (FILE_COLUMNS, LABEL_COLUMNS))


def _json_object(line: str, where: str) -> dict[str, object]:
    try:
        cells = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: this is no JSON ({error}).") from error
    if not isinstance(cells, dict):
        raise InputError(f'{where}: expected an object like {{"file_name": "a.png", "label": "cat"}}.')
    return cells
