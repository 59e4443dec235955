"""Image sets of the Hugging Face hub, by name: `owner/name`, or `owner/name:configuration` where a set has several."""

from __future__ import annotations

import logging
import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor

from blocklocal._common.errors import InputError
from blocklocal._common.screen import one_line
from blocklocal.data import columns
from blocklocal.data.names import few
from blocklocal.data.roles import ROLES, by_role, cast
from blocklocal.data.source import Encoded, Source, Unlabelled

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa
    from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?(:[^/\s]+)?")
_KNOWN = ("cifar10", "cifar100", "fashion_mnist", "mnist")  # older names, which the hub leads to owner/name
_LOUD = ("datasets", "huggingface_hub", "urllib3")  # loggers that write a line per attempt
_ROWS = 10_000  # labels read at a time
_CONFIGURATIONS = re.compile(r"[Aa]vailable(?: configs)?: \[(.*?)\]", re.DOTALL)


def looks_like_hub_name(data: str) -> bool:
    """`name` or `owner/name`, and `:configuration` behind it; anything else is meant as a path."""
    return _NAME.fullmatch(data) is not None


def is_plain(data: str) -> bool:
    """Whether this is one word that can be no set of the hub, which calls its sets `owner/name`: no need to ask it."""
    return "/" not in data and ":" not in data and data not in _KNOWN


def open_hub(name: str, *, stream: bool = False) -> Source:
    """Download (or take from the `datasets` cache) the set `name`.

    Args:
        name: as above.
        stream: read it from the hub, once for the labels and once for the images, and keep no copy of it.

    Raises:
        InputError: that fails for any reason, a configuration must be chosen, a split or column is missing, or a label
            is not a class.
    """
    sets = download(name, stream)
    splits = by_role(map(str, sets), name)
    missing = f". Its splits are: {', '.join(map(str, sets))}."
    if "train" not in splits:
        raise InputError(f"{name} has no train split{missing}")
    found = {role: sets[splits[role]] for role in ROLES if role in splits}
    others = [str(split) for split in sets if split not in splits.values()]
    classes, parts = _read_parts(name, splits, found, others)
    train, validation, test = cast(parts, name, missing)
    return Source(classes, train, test, validation)


def _read_parts(
    name: str, splits: dict[str, str], found: dict[str, Dataset | IterableDataset], others: list[str]
) -> tuple[tuple[str, ...], dict[str, Encoded | Unlabelled]]:
    origins = {role: f"{name}, split {splits[role]}" for role in found}
    read = {role: [(origins[role], _labels(dataset, origins[role], role))] for role, dataset in found.items()}
    classes, united, parts = columns.unite_splits(read, origins)
    for role, [(values, note)] in united.items():
        rest = f"left out: the splits {', '.join(others)}" if others and role == "train" else ""
        parts[role] = _encoded(found[role], values, origins[role], tuple(filter(None, (rest, note))))
    return classes, parts


def download(name: str, stream: bool = False) -> DatasetDict | IterableDatasetDict:
    """The splits of a set, from the hub or the cache of `datasets`.

    Raises:
        InputError: that fails for any reason, or a configuration must be chosen.
    """
    try:
        import datasets

        base, _, configuration = name.partition(":")
        with _quiet():
            given: Any = (base, configuration) if configuration else (base,)
            options: Any = {"streaming": True} if stream else {}
            return datasets.load_dataset(*given, **options)
    # Hub, HTTP, builder and script errors come from five libraries and share no base class.
    except Exception as error:
        raise _refused(name, error) from error


@contextmanager
def _quiet() -> Generator[None]:
    """Without what the libraries below write about each attempt: how it ended is said once, by `_refused`."""
    loggers = [logging.getLogger(name) for name in _LOUD]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _refused(name: str, error: Exception) -> InputError:
    known = _CONFIGURATIONS.search(str(error))
    if known:
        there = [each.strip().strip("'\"") for each in known[1].split(",")]
        base = name.partition(":")[0]
        return InputError(
            f"the hub's set {base} has the configurations {few(there)}: choose one by a colon and its name, such as "
            f"{base}:{there[0]}."
        )
    lines = str(error).strip().splitlines() or ["no reason given"]
    return InputError(
        f"cannot load {name!r}: there is no folder of that name here, and the Hugging Face hub gave "
        f"{type(error).__name__}: {one_line(lines[0])}. Check the spelling (owner/name) and the network, or give the "
        "path of a folder of parquet files or images."
    )


def _labels(dataset: Dataset | IterableDataset, where: str, role: str) -> columns.ColumnLabels | None:
    """The labels of one split; None where it has none."""
    if dataset.column_names is None or dataset.features is None:
        raise InputError(f"{where} does not say which columns it has, so it cannot be streamed: leave out --stream.")
    label = columns.label_column(dataset.column_names, role, where)
    if label is None:
        return None
    one: Any = dataset.select_columns([label]).with_format("arrow")
    column = one[:][label] if hasattr(one, "__len__") else _streamed(one, label)
    return columns.read_labels(column, getattr(dataset.features[label], "names", None), where)


def _streamed(dataset: Any, name: str) -> pa.ChunkedArray:
    """One column of a set that is read as it comes."""
    import pyarrow as pa

    return pa.chunked_array([chunk for table in dataset.iter(_ROWS) for chunk in table[name].chunks])


def _encoded(dataset: Dataset | IterableDataset, labels: Tensor, where: str, notes: tuple[str, ...]) -> Encoded:
    def images() -> Iterator[tuple[str, bytes | Path | None]]:
        import datasets

        name, _ = columns.find_columns(dataset.column_names or (), where)
        plain: Any = dataset.select_columns([name]).cast_column(name, datasets.Image(decode=False))
        row = 0
        for table in plain.with_format("arrow").iter(columns.BATCH_ROWS):
            for value in columns.image_values(table[name].combine_chunks(), True, where):
                yield f"{where}, row {row}", value
                row += 1

    return Encoded(labels, images, where, notes)
