"""Folders of images: which layout a folder has, and what is read from it.

The class of an image is the name of the folder it lies in, or what a table of labels beside the images says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from blocklocal._common.choices import TargetKind
from blocklocal._common.errors import InputError, shown
from blocklocal._common.screen import printable
from blocklocal.data.image_table import Table
from blocklocal.data.image_targets import with_targets
from blocklocal.data.listing import Listing, of_splits, of_whole
from blocklocal.data.names import class_names, few, many
from blocklocal.data.roles import ROLES, by_role, role_of
from blocklocal.data.scan import (
    BESIDE,
    LOOSE,
    OTHER,
    SUFFIXES,
    TABLE,
    LeftOut,
    images_directly_in,
    list_images,
    subfolders,
)
from blocklocal.data.source import Source, Unlabelled
from blocklocal.data.table_reading import read_table
from blocklocal.data.tables import find_tables, list_table

LAYOUT = "train/<class>/*.png with test/<class>/*.png, <class>/*.png, or images beside a labels.csv (see docs/data.md)"
_REMEDY = (
    "Put each class into a folder of its own, or name every file and its label in a labels.csv beside them. (A folder "
    "with the name of a split is never a class: rename it if it is one.)"
)
_NO_CLASS = {"images", "image", "imgs", "img", "unknown", "unlabeled", "unlabelled"}  # of images without labels
_NEVER_CLASSES = {*_NO_CLASS, "masks", "mask", "labels", "annotations"}  # where there is nothing else


def find_folder(root: Path) -> Source:
    """List a folder of images. Classes are the folder names, or a table's labels, in alphabetical order.

    Without splits a fixed, stratified fifth of the images becomes the test split.

    Raises:
        InputError: the layout is not known, a class folder has no images, or a test class is not a training class.
    """
    name, left = root.resolve().name, LeftOut()
    folders = {folder.name: folder for folder in subfolders(root, left)}
    roles = by_role(folders, root)
    tables = find_tables(root)
    if roles:
        return _with_splits(root, name, {role: folders[each] for role, each in roles.items()}, folders, tables, left)
    common = tables.get(None)
    of_role = {role: table for role, table in tables.items() if role is not None}
    if "train" in of_role and of_role["train"].labelled:
        parts = {role: list_table(table, (root, *_image_folders(folders)), name) for role, table in of_role.items()}
        for part in parts.values():
            _check_agrees(part, root)
        return of_splits(
            _telling(parts, left), root, ". Expected a train.csv and a test.csv; name a lone table labels.csv."
        )
    if common is not None and common.labelled:
        return _by_table(root, name, common, folders, left)
    left = LeftOut()
    for table in tables.values():
        left.add(TABLE, table.path.name)
    _check_several(root, subfolders(root, LeftOut()), tables)
    return of_whole(_list_classes(root, name, left, tables), root)


def find_listed(path: Path, labels: Sequence[str] = (), kind: TargetKind = "auto") -> Source:
    """The images that a table names, given by its own path: see `read_table` and `with_targets`.

    Paths count from the table's folder, or from a folder `images` beside it.

    Raises:
        InputError: the table cannot be used, or a file that it names is not there.
    """
    root = path.resolve().parent
    table = read_table(path, labels)
    columns = tuple(labels) or ((table.label_column,) if kind == "values" else ())
    table, said = with_targets(table, columns, kind) if columns else (table, "")
    folders = {folder.name: folder for folder in subfolders(root, LeftOut())}
    found = _by_table(root, path.stem, table, folders, LeftOut(), own=True)
    return replace(found, train=replace(found.train, notes=(*found.train.notes, said))) if said else found


def _with_splits(
    root: Path,
    name: str,
    splits: dict[str, Path],
    folders: dict[str, Path],
    tables: dict[str | None, Table],
    left: LeftOut,
) -> Source:
    for role, table in tables.items():
        if role in splits and not table.labelled:
            left.add(TABLE, table.path.name)
    if "train" not in splits and "train" not in tables:
        first = next(iter(splits.values())).name
        raise InputError(
            f"{root} has a folder {first!r} but none named 'train'. Expected {LAYOUT}. Rename a class called {first!r}."
        )
    parts: dict[str, Listing | Unlabelled] = {}
    for role in (role for role in ROLES if role in splits or role in tables):
        bases = (root, *([splits[role]] if role in splits else []), *_image_folders(folders))
        if role in tables and role not in splits:
            parts[role] = list_table(tables[role], bases, name)
        elif role in tables and tables[role].labelled:
            parts[role] = _prefer_folders(list_table(tables[role], bases, name), splits[role], name)
        else:
            parts[role] = _read_split(splits[role], f"{name}/{splits[role].name}", root, tables.get(None))
    used = {
        place for part in parts.values() if isinstance(part, Listing) for file in part.files for place in file.parents
    }
    for each in folders.values():
        if each not in splits.values() and each not in used:
            left.add(BESIDE, each.name)
    return of_splits(
        _telling(parts, left), root, ", only a training split. Add a folder named 'test' or 'val' beside it."
    )


def _telling(parts: dict[str, Listing | Unlabelled], left: LeftOut) -> dict[str, Listing | Unlabelled]:
    """The splits of a set; what was passed over beside them is told once, of the training split."""
    return {role: _with_notes(part, left) if role == "train" else part for role, part in parts.items()}


def _with_notes(part: Listing | Unlabelled, left: LeftOut) -> Listing | Unlabelled:
    return replace(part, notes=(*left.notes(), *part.notes)) if isinstance(part, Listing) else part


def _read_split(folder: Path, origin: str, root: Path, common: Table | None) -> Listing | Unlabelled:
    """The split of one folder: by its own table, by the common one beside it, or by its class folders."""
    own = find_tables(folder).get(None)
    if own is not None and own.labelled:
        bases = (folder, *_image_folders({each.name: each for each in subfolders(folder, LeftOut())}))
        return _prefer_folders(list_table(own, bases, origin), folder, origin)
    if common is not None and common.labelled and common.names_files_in(folder, root):
        return _prefer_folders(list_table(common, (root,), origin, within=folder), folder, origin)
    inner = subfolders(folder, LeftOut())
    loose = images_directly_in(folder)
    no_class = len(inner) == 1 and (inner[0].name.lower() in _NO_CLASS or inner[0].name == folder.name)
    if (loose and not inner) or (no_class and role_of(folder.name) != "train"):
        count = len(loose) or len(list_images(inner[0], LeftOut()))
        return Unlabelled(origin, f"{many(count, 'image', 'images')} outside any class folder", _REMEDY)
    if role_of(folder.name) == "train":
        _check_several(folder, inner, {})
    return _list_classes(folder, origin, LeftOut(), {})


def _by_table(
    root: Path, name: str, table: Table, folders: dict[str, Path], left: LeftOut, *, own: bool = False
) -> Source:
    """The images of one table; of one that was given by its `own` path, folders say nothing."""
    bases = (root, *_image_folders(folders))
    if table.roles:
        parts = {role: list_table(table, bases, name, role=role) for role in table.roles}
        for part in () if own else parts.values():
            _check_agrees(part, root)
        return of_splits(
            _telling(parts, left), root, f": the column {table.split_column!r} of {table.path.name} names none."
        )
    found = list_table(table, bases, name)
    listing = found if own else _prefer_folders(found, root, name)
    if isinstance(listing, Unlabelled):  # of a table with a label column of its own: else it is not asked
        raise InputError(f"{table.path}: no row has a label in the column {table.label_column}. Give them some.")
    return of_whole(listing, root)


def _prefer_folders(listing: Listing | Unlabelled, folder: Path, origin: str) -> Listing | Unlabelled:
    """What a table says, or the class folders where the images lie in such: both must say the same."""
    if _check_agrees(listing, folder):
        return _list_classes(folder, origin, LeftOut(), {})
    left = LeftOut()
    subfolders(folder, left)
    return _with_notes(listing, left)


def _check_agrees(listing: Listing | Unlabelled, folder: Path) -> bool:
    """Whether `folder` has class folders too. Raises InputError where a table calls an image otherwise."""
    inner = [each for each in subfolders(folder, LeftOut()) if each.name.lower() not in _NEVER_CLASSES]
    if isinstance(listing, Unlabelled) or len(inner) < 2:
        return False
    places = [next((each.name for each in inner if each in path.parents), None) for path in listing.files]
    if not any(places):
        return False
    for path, label, place in zip(listing.files, listing.names, places, strict=True):
        if place is None or printable(place, lines=False) != label:
            raise InputError(
                f"{listing.tables[0]} calls {path} {label!r}, but {folder} holds the folders "
                f"{few([each.name for each in inner])}. If these are the classes, move the table away; if not, put all "
                "images into one folder, 'images'."
            )
    return True


def _image_folders(folders: dict[str, Path]) -> list[Path]:
    """Where a table's files are looked for besides its own folder: `images`, or the only folder there is."""
    named = [folder for folder in folders.values() if folder.name.lower() in _NO_CLASS]
    return named or (list(folders.values()) if len(folders) == 1 else [])


def _list_classes(root: Path, origin: str, left: LeftOut, tables: dict[str | None, Table]) -> Listing:
    """Every class folder below `root`. Raises InputError where there is none, or one without images."""
    folders = subfolders(root, left)
    loose = images_directly_in(root)
    if not folders:
        raise InputError(_nothing(root, loose, tables))
    files: list[Path] = []
    names: list[str] = []
    shown = class_names([folder.name for folder in folders], str(root))
    for folder, name in zip(folders, shown, strict=True):
        _check_no_splits(folder)
        found = _list_class(folder, left)
        files += found
        names += [name] * len(found)
    if loose:
        left.add(LOOSE, loose[0].name, len(loose))
    deeper = sum(len(path.relative_to(root).parts) > 2 for path in files)
    nested = (f"{many(deeper, 'image', 'images')} in folders inside a class folder: of that class",) if deeper else ()
    return Listing(files, names, shown, origin, (*left.notes(), *nested))


def _list_class(folder: Path, left: LeftOut) -> list[Path]:
    before = left.count(OTHER)
    found = list_images(folder, left)
    if not found:
        others = left.count(OTHER) - before
        there = f" It holds {many(others, 'other file', 'other files')}." if others else ""
        raise InputError(
            f"the class folder {folder} holds no images ({', '.join(SUFFIXES)}).{there} Add some, or remove the folder."
        )
    return found


def _nothing(root: Path, loose: list[Path], tables: dict[str | None, Table]) -> str:
    said = _columns(tables)
    if loose:
        found = many(len(loose), "image", "images")
        return f"{root} holds {found} outside any class folder, so without labels.{said} {_REMEDY}"
    text = "or, to learn a text, .txt, .md, .rst or .jsonl files"
    return f"{root} holds no class folders (and no parquet files).{said} Expected {LAYOUT}; {text}."


def _columns(tables: dict[str | None, Table]) -> str:
    return "".join(
        f" {table.path.name} has the columns {few(table.columns)}: none of them is called {wanted}."
        for table in tables.values()
        for wanted in (("file" if not table.file_column else "label"),)
        if not table.labelled
    )


def _check_several(root: Path, folders: list[Path], tables: dict[str | None, Table]) -> None:
    """A lone "class" is a path given one level too high, or a folder of images without labels."""
    if len(folders) != 1:
        if folders and all(folder.name.lower() in _NEVER_CLASSES for folder in folders):
            names = few([folder.name for folder in folders])
            raise InputError(f"{root} holds no class folders, only {names}.{_columns(tables)} {_REMEDY}")
        return
    inner = sorted(path.name for path in subfolders(folders[0], LeftOut()))
    if inner:
        raise InputError(
            f"{root} holds one folder, {folders[0].name!r}, which holds folders: {', '.join(inner[:3])}. "
            f"Did you mean {folders[0]}?"
        )
    raise InputError(
        f"{root} holds one class, {shown(folders[0].name)}: there is nothing to tell it from. Expected two or more "
        f"class folders, or a labels.csv that names every file and its label: {LAYOUT}.{_columns(tables)}"
    )


def _check_no_splits(folder: Path) -> None:
    inner = [each.name for each in subfolders(folder, LeftOut()) if role_of(each.name) in ("train", "test")]
    if inner:
        raise InputError(
            f"the class folder {folder} holds the split {inner[0]!r}. Expected the splits outside, the classes inside: "
            f"{LAYOUT}. If {folder} is a set of its own, give its path."
        )
