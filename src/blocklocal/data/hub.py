"""Image sets of the Hugging Face hub, by name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from blocklocal.data import columns
from blocklocal.data.decode import Encoded, Source
from blocklocal.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from datasets import Dataset, DatasetDict

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_TEST_NAMES = ("test", "validation", "valid", "val")


def looks_like_hub_name(data: str) -> bool:
    """`name` or `owner/name`; anything else is meant as a path."""
    return _NAME.fullmatch(data) is not None


def open_hub(name: str) -> Source:
    """Download (or take from the `datasets` cache) the set `name`.

    Raises InputError when that fails for any reason, a split or column is missing, or a label is not a class.
    """
    sets = _download(name)
    train = _split(sets, ("train",), name)
    test = _split(sets, _TEST_NAMES, name)
    _, label = columns.find_columns(train.column_names, name)
    names = getattr(train.features[label], "names", None)
    labels = _labels(train, f"{name} (training split)")
    classes = columns.resolve_classes(names, labels, name)
    columns.check_labels(labels, len(classes), f"{name} (training split)")
    test_labels = _labels(test, f"{name} (test split)")
    columns.check_labels(test_labels, len(classes), f"{name} (test split)")
    return Source(
        classes,
        _encoded(train, labels, f"{name} (training split)"),
        _encoded(test, test_labels, f"{name} (test split)"),
    )


def _download(name: str) -> DatasetDict:
    try:
        import datasets

        return datasets.load_dataset(name)
    # Hub, HTTP, builder and script errors come from five libraries and share no base class.
    except Exception as error:
        reason = (
            f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no reason given'}"
        )
        raise InputError(
            f"cannot load {name!r}: there is no folder of that name here, and the Hugging Face hub gave {reason}. "
            "Check the spelling (owner/name) and the network, or give the path of a folder of parquet files or images."
        ) from error


def _split(sets: DatasetDict, candidates: tuple[str, ...], name: str) -> Dataset:
    found = next((split for split in candidates if split in sets), None)
    if found is None:
        raise InputError(f"{name} has no {candidates[0]} split. Its splits are: {', '.join(map(str, sets))}.")
    return sets[found]


def _labels(dataset: Dataset, where: str) -> list[int]:
    _, label = columns.find_columns(dataset.column_names, where)
    return columns.read_labels(dataset.with_format("arrow").select_columns([label])[:][label], where)


def _encoded(dataset: Dataset, labels: list[int], where: str) -> Encoded:
    def images() -> Iterator[tuple[str, bytes | Path | None]]:
        import datasets

        name, _ = columns.find_columns(dataset.column_names, where)
        plain: Any = dataset.select_columns([name]).cast_column(name, datasets.Image(decode=False))
        row = 0
        for table in plain.with_format("arrow").iter(columns.BATCH_ROWS):
            for value in columns.image_values(table[name].combine_chunks(), True, where):
                yield f"{where}, row {row}", value
                row += 1

    return Encoded(labels, images)
