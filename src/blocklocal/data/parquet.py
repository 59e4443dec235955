"""Folders of parquet files in the layouts of the Hugging Face hub.

`train-00000-of-00001.parquet`, `data/train-….parquet`, `<configuration>/train-….parquet` or `train/0000.parquet`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor, cat

from blocklocal._common.errors import InputError
from blocklocal._common.limits import check_memory
from blocklocal.data import columns
from blocklocal.data.names import few
from blocklocal.data.roles import ROLES, cast, role_of
from blocklocal.data.scan import LeftOut, files_directly_in, subfolders
from blocklocal.data.source import Encoded, Source, Unlabelled

_SHARD = re.compile(r"-(\d+)-of-(\d+)(?=-|$)")
_DEPTH = 3  # folders below the set's own in which files are looked for: data, configuration, split
_POINTER = b"version https://git-lfs"
_LABEL_BYTES = 8
_READ_AHEAD = 2**20  # bytes; without it a whole column would be read into memory at once


def parquet_files(root: Path) -> list[Path]:
    """Every visible parquet file in the folder and a few levels below it."""
    found, level = [], [root]
    for _ in range(_DEPTH + 1):
        found += [path for folder in level for path in files_directly_in(folder, (".parquet",))]
        level = [inner for folder in level for inner in subfolders(folder, LeftOut())]
    return found


def role_of_file(path: Path, root: Path) -> str | None:
    """The split that a file's name says, or that of a folder it is in."""
    words = re.split(r"[-_. ]", path.stem)
    by_name = {role for role in map(role_of, words) if role}
    if role_of(words[0]) or len(by_name) == 1:
        return role_of(words[0]) or by_name.pop()
    folders = path.relative_to(root).parts[:-1]
    return next((role for role in map(role_of, reversed(folders)) if role), None)


def find_parquet(root: Path, files: Sequence[Path]) -> Source:
    """Open the parquet files found below `root` and check their labels.

    Raises:
        InputError: there are several configurations, a split, shard or column is missing, a file cannot be read, or a
            label is none of the classes.
    """
    shards: dict[str, list[Path]] = {role: [] for role in ROLES}
    nameless = []
    for path in files:
        role = role_of_file(path, root)
        (nameless if role is None else shards[role]).append(path)
    _check_one_configuration(root, [path for found in shards.values() for path in found])
    for found in shards.values():
        _check_complete(found)
    missing = f": expected files named like train-*.parquet and test-*.parquet, found {few([p.name for p in files])}."
    if not shards["train"]:
        raise InputError(f"{root} has no train split{missing}")
    notes = (
        (f"left out: parquet files whose names say no split ({few([p.name for p in nameless])})",) if nameless else ()
    )
    classes, parts = _read_parts(root, {role: found for role, found in shards.items() if found}, notes)
    train, validation, test = cast(parts, root, missing)
    return Source(classes, train, test, validation, tuple(path for found in shards.values() for path in found))


def _read_parts(
    root: Path, shards: dict[str, list[Path]], notes: tuple[str, ...]
) -> tuple[tuple[str, ...], dict[str, Encoded | Unlabelled]]:
    read = {role: [(str(path), _labels(path, role)) for path in found] for role, found in shards.items()}
    _check_all_or_none(read)
    origins = {role: _origin(root, found) for role, found in shards.items()}
    classes, united, parts = columns.unite_splits(read, origins)
    for role, counted in united.items():
        found = shards[role]
        own = dict.fromkeys(f"{path.name}: {note}" for path, (_, note) in zip(found, counted, strict=True) if note)
        more = notes if role == "train" else ()
        parts[role] = _encoded(found, [values for values, _ in counted], origins[role], (*more, *own))
    return classes, parts


def _check_all_or_none(read: dict[str, list[tuple[str, columns.ColumnLabels | None]]]) -> None:
    for found in read.values():
        without = [where for where, labels in found if labels is None]
        if without and len(without) < len(found):
            raise InputError(f"{without[0]} has no labels, but other files of its split do. Give every image a label.")


def _check_one_configuration(root: Path, files: Sequence[Path]) -> None:
    """All files must lie in one folder, but for folders of splits."""
    places = {tuple(part for part in path.relative_to(root).parts[:-1] if role_of(part) is None) for path in files}
    if len(places) > 1:
        names = sorted("/".join(place) or "." for place in places)
        one = next(root.joinpath(*place) for place in sorted(places) if place)
        raise InputError(
            f"{root} holds several configurations of a set: {few(names)}. Give the path of one of them, such as {one}."
        )


def _origin(root: Path, paths: Sequence[Path]) -> str:
    first = f"{root.resolve().name}/{paths[0].relative_to(root).as_posix()}"
    return first if len(paths) == 1 else f"{first} and {len(paths) - 1} more"


def _check_complete(paths: Sequence[Path]) -> None:
    numbered = [match for match in (_SHARD.search(path.stem) for path in paths) if match]
    if not numbered:
        return
    totals = {int(match[2]) for match in numbered}
    places = {int(match[1]) for match in numbered}
    if len(totals) > 1 or len(places) < len(numbered) or len(numbered) < len(paths):
        raise InputError(
            f"{paths[0].parent} holds files of different downloads: {few([path.name for path in paths])}. Keep one."
        )
    if len(numbered) != min(totals):
        raise InputError(
            f"{paths[0].parent} holds {len(numbered)} of {min(totals)} files like {paths[0].name}. "
            "Download the missing ones."
        )


@contextmanager
def _readable(path: Path) -> Generator[None, None, None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        remedy = (
            "Run `git lfs pull`: it is a pointer to the file." if _is_pointer(path) else "Download or write it again."
        )
        raise InputError(f"cannot read {path} as parquet: {error}. {remedy}") from error


def _is_pointer(path: Path) -> bool:
    """Whether a clone without git-lfs left a few lines of text in the place of the file."""
    try:
        with path.open("rb") as file:
            return file.read(len(_POINTER)) == _POINTER
    except OSError:
        return False


def _labels(path: Path, role: str) -> columns.ColumnLabels | None:
    """The labels of one file of the split `role`; None where it has none."""
    import pyarrow.parquet as pq

    with _readable(path), pq.ParquetFile(path) as file:
        rows = file.metadata.num_rows
        check_memory(f"the {rows:,} labels of {path}", rows * _LABEL_BYTES, "use fewer images")
        schema = file.schema_arrow
        label = columns.label_column(schema.names, role, str(path))
        if label is None:
            return None
        column = file.read(columns=[label])[label]
        return columns.read_labels(column, _class_names(schema.metadata, label), str(path))


def _class_names(metadata: dict[bytes, bytes] | None, label: str) -> list | None:
    """Class names from the metadata that `datasets` writes into a file; None where there are none."""
    try:
        names = json.loads((metadata or {})[b"huggingface"])["info"]["features"][label]["names"]
    except (KeyError, TypeError, ValueError, RecursionError):  # no such metadata, or of another shape
        return None
    return names if isinstance(names, list) else None


def _encoded(paths: Sequence[Path], labels: Sequence[Tensor], origin: str, notes: tuple[str, ...]) -> Encoded:
    def images() -> Iterator[tuple[str, bytes | Path | None]]:
        for path in paths:
            yield from _images(path)

    return Encoded(cat(list(labels)), images, origin, notes)


def _images(path: Path) -> Iterator[tuple[str, bytes | Path | None]]:
    import pyarrow.parquet as pq

    row = 0
    with _readable(path), pq.ParquetFile(path, buffer_size=_READ_AHEAD) as file:
        name, _ = columns.find_columns(file.schema_arrow.names, str(path))
        for batch in file.iter_batches(columns.BATCH_ROWS, columns=[name]):
            for value in columns.image_values(batch.column(0), False, str(path)):
                yield f"{path}, row {row}", value
                row += 1
