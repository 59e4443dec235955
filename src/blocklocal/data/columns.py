"""Tables with an image and a label column: what parquet files and sets from the Hugging Face hub share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from blocklocal.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "labels", "fine_label")
BATCH_ROWS = 1024  # rows read at a time: bounds the memory that encoded images take
_MOST_UNNAMED = 65_536  # classes that a file without class names may imply; a larger label is a mistake in the column


def find_columns(present: Sequence[str], where: str) -> tuple[str, str]:
    """Names of the (image, label) columns. Raises InputError that lists the columns there are."""
    found = []
    for kind, candidates in (("image", IMAGE_COLUMNS), ("label", LABEL_COLUMNS)):
        name = next((name for name in candidates if name in present), None)
        if name is None:
            raise InputError(
                f"{where} has no {kind} column. Its columns are: {', '.join(present)}. "
                f"Rename the right one to {candidates[0]!r}."
            )
        found.append(name)
    return found[0], found[1]


def read_labels(column: pa.ChunkedArray, where: str) -> list[int]:
    """The label column as integers. Raises InputError with the row and value of a null, fraction or text."""
    import pyarrow as pa

    values = column.to_pylist()
    if not pa.types.is_integer(column.type):
        first = repr(values[0]) if values else "nothing"
        raise InputError(f"{where}, row 0: the label is {first} ({column.type}). Labels must be whole numbers from 0.")
    if column.null_count:
        row = values.index(None)
        raise InputError(f"{where}, row {row}: the label is missing (null). Every image needs a label from 0.")
    return values


def check_labels(labels: Sequence[int], classes: int, where: str) -> None:
    """Raise InputError for the first label outside 0..classes-1, with its row."""
    if labels and (min(labels) < 0 or max(labels) >= classes):
        row = next(row for row, label in enumerate(labels) if not 0 <= label < classes)
        raise InputError(
            f"{where}, row {row}: the label is {labels[row]}, but there are {classes} classes, numbered from 0 to "
            f"{classes - 1}. Correct the label or the list of class names."
        )


def resolve_classes(names: Sequence[object] | None, labels: Sequence[int], where: str) -> tuple[str, ...]:
    """The given class names; where there are none (None) "0", "1", …, as many as the training labels imply."""
    if names is not None and len(names) == 0:
        raise InputError(f"{where} has an empty list of class names. Name its classes, or remove the list.")
    if names is not None:
        return tuple(str(name) for name in names)
    check_labels(labels, _MOST_UNNAMED, where)
    if not labels:
        raise InputError(f"{where} holds no rows: there are no images and no classes.")
    return tuple(str(value) for value in range(max(labels) + 1))


def image_values(column: pa.Array, follow_paths: bool, where: str) -> Iterator[bytes | Path | None]:
    """Encoded images of one array: struct{bytes, path} or plain binary. `follow_paths`: a path stands in for bytes."""
    import pyarrow as pa

    binary = (
        column.field("bytes")
        if pa.types.is_struct(column.type) and column.type.get_field_index("bytes") >= 0
        else column
    )
    if not (pa.types.is_binary(binary.type) or pa.types.is_large_binary(binary.type)):
        raise InputError(
            f"{where}: the image column is {column.type}. Expected encoded images: struct<bytes, path> or binary."
        )
    paths = column.field("path") if follow_paths and binary is not column else None
    for row in range(len(column)):
        data = binary[row].as_py() if column[row].is_valid else None
        path = paths[row].as_py() if data is None and paths is not None else None
        yield Path(path) if path else data
