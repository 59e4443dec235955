"""Tables of numbers and texts, from CSV and parquet files: columns by name, and rows that errors can name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from blocklocal._common.errors import InputError, shown, unknown
from blocklocal._common.limits import check_memory
from blocklocal._common.screen import printable

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIXES = (".csv", ".tsv", ".txt", ".parquet")
MISSING = ["", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None", "?", "#N/A"]
_SEPARATORS = ",;\t|"
_NUMBER = re.compile(r"\s*[-+]?(\d+([.,]\d*)?|[.,]\d+)([eE][-+]?\d+)?\s*")
_DECIMAL_COMMA = re.compile(r"(^|;)\s*-?\d+,\d+\s*(;|$)")
_COST = 8  # bytes in memory for a byte of the file, at most about
_LARGEST = 2**31 - 2  # bytes that pyarrow looks at before it says what a column holds


@dataclass(frozen=True, eq=False)
class Frame:
    """A table as it was read. `rows` count from 1, the first below the header."""

    path: Path
    table: pa.Table

    def __len__(self) -> int:
        return self.table.num_rows

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.table.column_names)

    def column(self, name: str) -> pa.ChunkedArray:
        """One column.

        Raises:
            InputError: there is none of that name; the message has the nearest.
        """
        if name not in self.names:
            several = [each.strip() for each in name.split(",")]
            if len(several) > 1 and set(several) <= set(self.names):
                raise InputError(
                    f"{self.path} has no column {name!r}: give the columns one by one, {' '.join(several)}."
                )
            raise InputError(f"{self.path}: {unknown('column', name, self.names)}")
        return self.table.column(name)

    def row(self, index: int) -> str:
        """A row as errors name it, by its place from 0 on."""
        return f"{self.path}, row {index + 1}"


def read_frame(path: Path) -> Frame:
    """Read a CSV or parquet file.

    Cells of a CSV are separated by what its first line has most of: commas, semicolons, tabs or bars. Empty cells, NA,
    NaN, null, None and ? are missing.

    Raises:
        InputError: it is no such file, or not one whose columns have names of their own and rows below them.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"{path} is no table: give a file with a name that ends in {', '.join(SUFFIXES)}.")
    try:
        check_memory(f"the table {path}", _COST * path.stat().st_size, "use fewer rows or columns")
        table = _read_parquet(path) if suffix == ".parquet" else _read_csv(path)
    except OSError as error:
        raise InputError(
            f"cannot read {path}: {error.strerror or error}. Check the name and its permissions."
        ) from error
    names = [printable(name, lines=False) for name in table.column_names]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{path} has two columns called {twice!r}. Give every column a name of its own.")
    if not table.num_rows:
        raise InputError(f"{path} has the columns {', '.join(names[:10])} and no rows. Give it some.")
    return Frame(path, table.rename_columns(names))


def _read_parquet(path: Path) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path)
    except pa.ArrowException as error:
        raise InputError(f"cannot read {path} as parquet: {error}. Write it again.") from error


def _read_csv(path: Path) -> pa.Table:
    import pyarrow as pa
    from pyarrow import csv

    content = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    header = _header(content, path)
    separator = max(_SEPARATORS, key=header.count)
    _check_header(header, separator, path)
    start = content[: 2**16].decode("utf-8", "replace").splitlines()[1:200]
    comma = separator == ";" and any(_DECIMAL_COMMA.search(line) for line in start)
    try:
        return csv.read_csv(
            pa.BufferReader(content),  # and no file of Python: arrow would still call it while the program ends
            read_options=csv.ReadOptions(block_size=min(_LARGEST, max(2**16, len(content) + 1))),
            parse_options=csv.ParseOptions(delimiter=separator, newlines_in_values=True),
            convert_options=csv.ConvertOptions(
                null_values=MISSING, strings_can_be_null=True, decimal_point="," if comma else "."
            ),
        )
    except pa.ArrowException as error:
        raise InputError(
            f"cannot read {path} as a table: {error}. Expected lines with as many cells as the first, separated by "
            f"{separator!r}; a cell that holds a separator stands in double quotes."
        ) from error


def _header(content: bytes, path: Path) -> str:
    """The first line of a text.

    Raises:
        InputError: there is none, or the file is no UTF-8.
    """
    if not content.strip():
        raise InputError(f"{path} is empty. Expected a line with the names of the columns, and rows below it.")
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise InputError(
            f"{path}, line {line}: this is no UTF-8 (the byte {content[error.start]:#x}). Save the file as UTF-8 text."
        ) from error
    return content.splitlines()[0].decode("utf-8")


def _check_header(header: str, separator: str, path: Path) -> None:
    names = [cell.strip().strip('"') for cell in header.split(separator)]
    if len(names) == 1:
        raise InputError(
            f"{path} has a single column, {shown(header)}. Expected columns separated by commas, semicolons, tabs or "
            "bars: is it another separator?"
        )
    if all(_NUMBER.fullmatch(name) for name in names):
        raise InputError(
            f"{path} begins with numbers ({shown(header)}). Expected a first line with the names of the columns."
        )


def looks_like_number(text: str) -> bool:
    """Whether a cell can be read as a number."""
    return _NUMBER.fullmatch(text) is not None
