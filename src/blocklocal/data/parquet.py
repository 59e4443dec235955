"""Folders of parquet files in the layout of the Hugging Face hub: `train-00000-of-00001.parquet`, `test-….parquet`."""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

from blocklocal.data import columns
from blocklocal.data.decode import Encoded, Source
from blocklocal.errors import InputError

_SHARD = re.compile(r"-(\d+)-of-(\d+)$")


def holds_parquet(root: Path) -> bool:
    return any(True for folder in _folders(root) for _ in folder.glob("*.parquet"))


def find_parquet(root: Path) -> Source:
    """Open the parquet files of a folder (or of its `data` subfolder) and check their labels.

    `validation-*` is the test split where there is no `test-*`. Raises InputError for a missing split, shard or column,
    a file that cannot be read, and a label that is not one of the classes.
    """
    train, test = _shards(root, ("train",)), _shards(root, ("test", "validation"))
    labels = {path: _labels(path) for path in (*train, *test)}
    every = [value for path in train for value in labels[path]]
    classes = columns.resolve_classes(_class_names(train[0]), every, str(train[0]))
    for path, values in labels.items():
        columns.check_labels(values, len(classes), str(path))
    return Source(classes, _encoded(train, labels), _encoded(test, labels), (*train, *test))


def _folders(root: Path) -> tuple[Path, Path]:
    return root, root / "data"


def _shards(root: Path, splits: tuple[str, ...]) -> list[Path]:
    """The files of the first of `splits` that is there."""
    for split in splits:
        for folder in _folders(root):
            found = sorted(path for path in folder.glob("*.parquet") if re.match(rf"{split}(-.*)?$", path.stem))
            if found:
                _check_complete(found)
                return found
    present = sorted(path.name for folder in _folders(root) for path in folder.glob("*.parquet"))
    raise InputError(
        f"{root} has no {splits[0]} split: expected files named {splits[0]}-*.parquet, found {', '.join(present[:5])}."
    )


def _check_complete(paths: list[Path]) -> None:
    numbered = [match for match in (_SHARD.search(path.stem) for path in paths) if match]
    if numbered and len(numbered) != int(numbered[0][2]):
        raise InputError(
            f"{paths[0].parent} holds {len(numbered)} of {int(numbered[0][2])} files like {paths[0].name}. "
            "Download the missing ones."
        )


@contextmanager
def _readable(path: Path) -> Generator[None, None, None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"cannot read {path} as parquet: {error}. Download or write it again.") from error


def _labels(path: Path) -> list[int]:
    import pyarrow.parquet as pq

    with _readable(path):
        _, label = columns.find_columns(pq.read_schema(path).names, str(path))
        column = pq.ParquetFile(path).read(columns=[label])[label]
    return columns.read_labels(column, str(path))


def _class_names(path: Path) -> list | None:
    """Class names from the metadata that `datasets` writes into a file; None where there are none."""
    import pyarrow.parquet as pq

    with _readable(path):
        schema = pq.read_schema(path)
    _, label = columns.find_columns(schema.names, str(path))
    try:
        names = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][label]["names"]
    except (KeyError, TypeError, ValueError):  # no such metadata, or of another shape: the labels themselves decide
        return None
    return names if isinstance(names, list) else None


def _encoded(paths: list[Path], labels: dict[Path, list[int]]) -> Encoded:
    def images() -> Iterator[tuple[str, bytes | Path | None]]:
        for path in paths:
            yield from _images(path)

    return Encoded([value for path in paths for value in labels[path]], images)


def _images(path: Path) -> Iterator[tuple[str, bytes | Path | None]]:
    import pyarrow.parquet as pq

    row = 0
    with _readable(path), pq.ParquetFile(path) as file:
        name, _ = columns.find_columns(file.schema_arrow.names, str(path))
        for batch in file.iter_batches(columns.BATCH_ROWS, columns=[name]):
            for value in columns.image_values(batch.column(0), False, str(path)):
                yield f"{path}, row {row}", value
                row += 1
