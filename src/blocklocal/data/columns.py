"""Tables with an image and a label column: what parquet files and sets from the Hugging Face hub share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from blocklocal._common.errors import InputError
from blocklocal._common.ranges import MOST_CLASSES
from blocklocal._common.screen import printable
from blocklocal.data.names import check_count, class_names, in_order, renumber
from blocklocal.data.source import Encoded, Unlabelled

if TYPE_CHECKING:
    import pyarrow as pa

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "labels", "fine_label")
BATCH_ROWS = 128  # rows read at a time: bounds the memory that encoded images take


@dataclass(frozen=True)
class ColumnLabels:
    """The labels of one file or split.

    Attributes:
        values: int64 [N].
        names: what the values count in; None where the source has bare numbers.
        declared: the names and their order come from the source itself; else they are the different texts in the
            column.
    """

    values: Tensor
    names: tuple[str, ...] | None = None
    declared: bool = False


def find_columns(present: Sequence[str], where: str) -> tuple[str, str | None]:
    """Names of the (image, label) columns, None for no label column.

    Raises:
        InputError: there is no image column; the message lists all columns.
    """
    found = [next((name for name in wanted if name in present), None) for wanted in (IMAGE_COLUMNS, LABEL_COLUMNS)]
    if found[0] is None:
        raise no_column("image", present, where)
    return found[0], found[1]


def label_column(present: Sequence[str], role: str, where: str) -> str | None:
    """The label column of a file of the split `role`; None where it has none.

    Raises:
        InputError: a training split has none.
    """
    label = find_columns(present, where)[1]
    if label is None and role == "train":
        raise no_column("label", present, where)
    return label


def no_column(kind: str, present: Sequence[str], where: str) -> InputError:
    """The error for a table without an "image" or "label" column."""
    names = ", ".join(printable(name, lines=False) for name in present)
    said = f"{where} has no {kind} column. Its columns are: {names}. Rename the right one to {kind!r}"
    return InputError(f"{said}; of a text, name its column by --text." if kind == "image" else f"{said}.")


def read_labels(column: pa.ChunkedArray, names: Sequence[object] | None, where: str) -> ColumnLabels | None:
    """A label column of whole numbers, truth values or texts.

    Args:
        names: the class names that the source declares.

    Returns:
        None where no row has a label (all null, or all -1).

    Raises:
        InputError: a value is null, a fraction, or a number that is none of the classes; the message names its row.
    """
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if len(column) and column.null_count == len(column):
        return None
    if column.null_count:
        row = int(np.flatnonzero(column.is_null().to_numpy())[0])
        raise InputError(f"{where}, row {row}: the label is missing (null). Every image needs a label.")
    declared = None if names is None else class_names(names, where)
    if _is_text(column.type) or pa.types.is_boolean(column.type):
        return _texts(column, declared, where)
    values = _whole_numbers(column, where)
    if len(values) and bool((values == -1).all()):
        return None
    check_labels(values, declared, where)
    return ColumnLabels(values, declared, declared is not None)


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _texts(column: pa.ChunkedArray, declared: tuple[str, ...] | None, where: str) -> ColumnLabels:
    """Texts (or truth values) are names themselves."""
    import pyarrow as pa
    import pyarrow.compute

    compute: Any = pyarrow.compute  # its functions are made when it is imported
    if _is_text(column.type):
        column = column.cast(pa.large_binary())  # bytes that are no UTF-8 could not be compared as text
    different = compute.unique(column)
    check_count(len(different), where)
    shown = [
        printable(value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value, lines=False)
        for value in different.to_pylist()
    ]
    names = tuple(in_order(shown))
    places = {name: place for place, name in enumerate(names)}
    by_value = torch.tensor([places[name] for name in shown], dtype=torch.int64)
    values = by_value[torch.from_numpy(compute.index_in(column, value_set=different).to_numpy().astype(np.int64))]
    if declared is None:
        return ColumnLabels(values, names)
    return ColumnLabels(renumber(values, names, declared, where, "its list of class names"), declared, True)


def _whole_numbers(column: pa.ChunkedArray, where: str) -> Tensor:
    import pyarrow as pa

    kind = column.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        first = repr(column[0].as_py())[:80] if len(column) else "nothing"
        raise InputError(f"{where}, row 0: the label is {first} ({kind}). Labels must be whole numbers or names.")
    values = column.to_numpy()
    whole = np.isfinite(values) & (np.abs(values.astype(np.float64)) < 2**53) & (values == np.floor(values))
    if not whole.all():
        row = int(np.flatnonzero(~whole)[0])
        raise InputError(f"{where}, row {row}: the label is {values[row]} ({kind}). Labels must be whole numbers.")
    return torch.from_numpy(values.astype(np.int64))


def check_labels(labels: Tensor, names: Sequence[str] | None, where: str) -> None:
    """Raise InputError for the first label outside the classes, with its row; without names, beyond any number."""
    count = MOST_CLASSES if names is None else len(names)
    outside = (labels < 0) | (labels >= count)
    if bool(outside.any()):
        row = int(outside.nonzero()[0])
        there = "labels without class names" if names is None else f"there are {count} classes, labels"
        raise InputError(
            f"{where}, row {row}: the label is {labels[row]}, but {there} go from 0 to {count - 1}. "
            "Correct the label or the list of class names."
        )


def unite_splits(
    read: Mapping[str, Sequence[tuple[str, ColumnLabels | None]]], origins: Mapping[str, str]
) -> tuple[tuple[str, ...], dict[str, list[tuple[Tensor, str]]], dict[str, Encoded | Unlabelled]]:
    """The labels of all splits, counted in the same classes.

    Without labelled training images there are no classes, and nothing is counted in them.

    Args:
        read: (where, labels) of the files of every split, all with labels or all without.

    Returns:
        The classes; for each labelled split the numbers of its files and what is to be told of each; unlabelled splits.
    """
    unlabelled: dict[str, Encoded | Unlabelled] = {
        role: Unlabelled(origins[role], "every label is missing, null or -1")
        for role, files in read.items()
        if files[0][1] is None
    }
    if "train" in unlabelled:
        return (), {}, unlabelled
    parts = [(role, where, labels) for role, files in read.items() for where, labels in files if labels is not None]
    training = sum(role == "train" for role, _, _ in parts)
    classes, counted, told = unite([(where, labels) for _, where, labels in parts], training)
    united: dict[str, list[tuple[Tensor, str]]] = {}
    for (role, _, _), values, note in zip(parts, counted, told, strict=True):
        united.setdefault(role, []).append((values, note))
    return classes, united, unlabelled


def unite(parts: Sequence[tuple[str, ColumnLabels]], training: int) -> tuple[tuple[str, ...], list[Tensor], list[str]]:
    """The labels of files or splits, counted in the same classes.

    The classes are those that a source declares first; else the texts of the training labels; else "0", "1", … up to
    the largest training label.

    Args:
        parts: (where, labels), the first `training` of them for training.

    Returns:
        The classes, the labels of each part counted in them, and what is to be told of each.

    Raises:
        InputError: class names differ, one part has numbers and another names, or the training part has no rows.
    """
    known = next(((where, part.names) for where, part in parts if part.declared and part.names), None)
    texts = [name for _, part in parts[:training] for name in part.names or ()]
    if known is not None:
        first, classes = known
    elif texts:
        first, classes = parts[0][0], class_names(in_order(texts), parts[0][0])
    else:
        first, classes = parts[0][0], _numbered(parts[:training])
    named = known is not None or bool(texts)
    counted = [_count_in(part, classes, where, first, named and known is None) for where, part in parts]
    told = [
        f"its labels are bare numbers; they count in the class names of {first}" if known and part.names is None else ""
        for _, part in parts
    ]
    return classes, counted, told


def _numbered(parts: Sequence[tuple[str, ColumnLabels]]) -> tuple[str, ...]:
    largest = max((int(part.values.max()) for _, part in parts if len(part.values)), default=None)
    if largest is None:
        raise InputError(f"{parts[0][0]} holds no rows: there are no images and no classes.")
    return tuple(map(str, range(largest + 1)))


def _count_in(part: ColumnLabels, classes: tuple[str, ...], where: str, first: str, by_text: bool) -> Tensor:
    if part.names is not None:
        return renumber(part.values, part.names, classes, where, first)
    if by_text and len(part.values):
        raise InputError(f"{where} has numbers as labels, but {first} has names. Give both the same kind of labels.")
    check_labels(part.values, classes, where)
    return part.values


def image_values(column: pa.Array, follow_paths: bool, where: str) -> Iterator[bytes | Path | None]:
    """Encoded images of one array: struct{bytes, path} or plain binary.

    Args:
        follow_paths: a path stands in for bytes.

    Raises:
        InputError: the column holds something else.
    """
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
