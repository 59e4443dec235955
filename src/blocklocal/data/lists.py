"""Series in parquet files: a column of lists (of numbers, or of one list per channel), and one of labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from blocklocal._common.errors import InputError
from blocklocal._common.limits import check_memory
from blocklocal.data.names import few

_COST = 40  # bytes in memory for a byte of the file, at most about


def list_columns(path: Path) -> list[str]:
    """The columns of a parquet file that hold lists of numbers; none of another file, or one that cannot be read."""
    if path.suffix.lower() != ".parquet" or not path.is_file():
        return []
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError):
        return []
    return [field.name for field in schema if _is_series(field.type)]


def _is_series(kind: object) -> bool:
    import pyarrow as pa

    for _ in range(2):
        if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
            return False
        kind = kind.value_type  # type: ignore[attr-defined]
        if pa.types.is_floating(kind) or pa.types.is_integer(kind):
            return True
    return False


def read_lists(path: Path, labels: str) -> dict[str, np.ndarray]:
    """{"x": [N, T] or [N, C, T]}, and the column of that name where there is one.

    Raises:
        InputError: it cannot be read, has several columns of lists, or lists of different lengths.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    lists = list_columns(path)
    name = "x" if "x" in lists else lists[0]
    if len(lists) > 1 and name != "x":
        raise InputError(f"{path} has several columns of lists ({few(lists)}): call the one with the series x.")
    check_memory(f"the series of {path}", _COST * path.stat().st_size, "use fewer or shorter series")
    try:
        names = pq.read_schema(path).names
        table = pq.read_table(path, columns=[name, *([labels] if labels in names else [])])
        found = {"x": np.array(table[name].to_pylist(), dtype=np.float32)}
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"cannot read {path} as parquet: {error}. Write it again.") from error
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{path}: the series in the column {name} are not of one length, or not all there. Cut or pad them to one."
        ) from error
    if labels in names:
        found[labels] = np.array(table[labels].to_pylist())
    return found
