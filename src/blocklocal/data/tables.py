"""Tables of image files and their labels: `labels.csv`, `metadata.csv` or `.jsonl`, one per split or one for all."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from blocklocal._common.errors import InputError, shown
from blocklocal._common.screen import printable
from blocklocal.data.image_table import Table, inside
from blocklocal.data.image_targets import targets_of
from blocklocal.data.listing import Listing
from blocklocal.data.names import class_names, few, in_order
from blocklocal.data.roles import role_of
from blocklocal.data.scan import UNNAMED, LeftOut, files_directly_in, is_image, list_images
from blocklocal.data.source import Unlabelled
from blocklocal.data.table_reading import SUFFIXES, read_text

_WHOLE = ("labels", "metadata")
_ROLE_STEM = re.compile(r"(.+?)(?:[_-](?:labels|metadata))?")


def find_tables(folder: Path) -> dict[str | None, Table]:
    """Role → the table of that split; None → the table of everything.

    Raises:
        InputError: two tables have one role.
    """
    found: dict[str | None, Table] = {}
    for path in files_directly_in(folder, SUFFIXES):
        role = role_of_table(path)
        if role is None and path.stem.lower() not in _WHOLE:
            continue
        table = read_text(path)
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
    lines: list[int] = []
    for line, cells in table.rows:
        if role is not None and role_of(table.text(line, cells, table.split_column)) != role:
            continue
        path = _locate(table, line, table.text(line, cells, table.file_column), bases)
        if within is not None and not inside(path, within):
            continue
        label = "" if table.asked else table.text(line, cells, table.label_column)
        if line not in table.targets if table.asked else label in table.no_label:
            raise InputError(f"{table.path}, line {line}: {path.name} has no label. Give it one, or remove the line.")
        if path in files:
            raise InputError(f"{table.path}, line {line}: {path.name} is named a second time. Keep one of the lines.")
        files[path] = printable(label, lines=False)
        lines.append(line)
    if not files:
        raise InputError(f"{table.path} names no files of {origin}. Name every image and its label.")
    targets = targets_of(table, lines) if table.asked else None
    classes = table.asked.names if table.asked else class_names(in_order(files.values()), str(table.path))
    left = LeftOut() if role_of_table(table.path) or table.roles else _unnamed(table, files, within)
    return Listing(list(files), list(files.values()), classes, said, left.notes(), (table.path,), targets)


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
