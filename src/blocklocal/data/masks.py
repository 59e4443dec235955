"""Folders of images with a mask each, which says the class of every pixel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from blocklocal._common.errors import InputError
from blocklocal.data.images import NO_CLASS
from blocklocal.data.names import class_names, few, many
from blocklocal.data.roles import by_role, cast, role_of
from blocklocal.data.scan import LeftOut, images_directly_in, subfolders
from blocklocal.data.source import Encoded, Source
from blocklocal.data.splits import stratified
from blocklocal.data.tables import find_tables

IMAGES, MASKS, CLASSES = "images", "masks", "classes.txt"
_LAYOUT = "images/0001.jpg with masks/0001.png, or train/images, train/masks, test/images and test/masks"


def holds_masks(root: Path) -> bool:
    """Whether a folder, or one of its splits, has a folder of images and one of masks, and no table of labels."""
    if any(table.labelled for table in find_tables(root).values()):
        return False
    inner = [folder for folder in subfolders(root, LeftOut()) if role_of(folder.name)]
    return any((folder / IMAGES).is_dir() and (folder / MASKS).is_dir() for folder in (root, *inner))


def find_masks(root: Path) -> Source:
    """The images and masks of a folder (or of its splits), joined by the stems of their names.

    Without splits a fixed fifth of the images becomes the test split. Classes are named in classes.txt, one a line;
    else they are the numbers in the training masks.

    Raises:
        InputError: an image has no mask, a split has not both folders, or classes.txt cannot be used.
    """
    classes, name = _read_classes(root / CLASSES), root.resolve().name
    if (root / IMAGES).is_dir():
        pairs, notes = _pairs(root)
        chosen = stratified([0] * len(pairs))
        train, test = (
            _encoded([pairs[i] for i in part], said, more)
            for part, said, more in zip(
                chosen, (name, f"{name} (a fixed fifth; the set has no test split)"), (notes, ()), strict=True
            )
        )
        validation = None
    else:
        folders = {folder.name: folder for folder in subfolders(root, LeftOut())}
        parts = {}
        for role, each in by_role(folders, root).items():
            pairs, notes = _pairs(folders[each])
            parts[role] = _encoded(pairs, f"{name}/{each}", notes)
        train, validation, test = cast(parts, root, f": expected {_LAYOUT}.")
    found = [encoded for encoded in (train, validation, test) if encoded is not None]
    files = [file for encoded in found for pair in encoded.masks for file in pair]
    named = [root / CLASSES] if classes else []
    return Source(classes, train, test, validation, (*files, *named), "pixels")


def _pairs(folder: Path) -> tuple[list[tuple[Path, Path]], tuple[str, ...]]:
    """Every image with its mask, and a note on masks without an image."""
    for inner in (IMAGES, MASKS):
        if not (folder / inner).is_dir():
            raise InputError(f"{folder} has no folder {inner!r}: expected {_LAYOUT}.")
    images, masks = (_by_stem(folder / inner) for inner in (IMAGES, MASKS))
    if not images:
        raise InputError(f"{folder / IMAGES} holds no images. Expected {_LAYOUT}.")
    lonely = [path for stem, path in images.items() if stem not in masks]
    if lonely:
        others = f" and {len(lonely) - 1:,} others have none" if len(lonely) > 1 else " has none"
        raise InputError(
            f"every image needs a mask of the same name in {folder / MASKS}: {lonely[0].name}{others}. Add it as "
            f"{lonely[0].stem}.png, or take the image away."
        )
    gone = [path.name for stem, path in masks.items() if stem not in images]
    notes = (f"left out: {many(len(gone), 'mask', 'masks')} without an image ({few(gone)})",) if gone else ()
    return [(path, masks[stem]) for stem, path in images.items()], notes


def _by_stem(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in images_directly_in(folder):
        if path.stem in found:
            raise InputError(f"{found[path.stem]} and {path} have one stem: masks are found by it. Rename one of them.")
        found[path.stem] = path
    return found


def _encoded(pairs: Sequence[tuple[Path, Path]], origin: str, notes: tuple[str, ...]) -> Encoded:
    def images() -> Iterator[tuple[str, Path]]:
        return ((str(image), image) for image, _ in pairs)

    return Encoded(torch.zeros(len(pairs), dtype=torch.int64), images, origin, notes, tuple(pairs))


def _read_classes(path: Path) -> tuple[str, ...]:
    """The names in a file, one a line; () where there is none."""
    if not path.is_file():
        return ()
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path} ({error}). Write names of classes as UTF-8, one a line.") from error
    names = class_names([line.strip() for line in lines if line.strip()], str(path))
    if not 2 <= len(names) <= NO_CLASS:
        raise InputError(f"{path} names {len(names)} classes: masks tell 2 to {NO_CLASS} apart.")
    return names
