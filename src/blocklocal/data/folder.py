"""Image folders: `train/<class>/*.png` beside `test/` or `val/`, or just `<class>/*.png`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from blocklocal.data.decode import Encoded, Source
from blocklocal.data.splits import stratified
from blocklocal.errors import InputError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
_TEST_NAMES = ("test", "val", "valid", "validation")
_LAYOUT = "train/<class>/*.png with test/<class>/*.png, or <class>/*.png"


def find_folder(root: Path) -> Source:
    """List an image folder. Classes are the folder names in alphabetical order.

    Without a `train` folder a fixed, stratified fifth of the images becomes the test split. Raises InputError for a
    layout that is none of these, a class folder with no images, or a test class that is not a training class.
    """
    if (root / "train").is_dir():
        return _two_splits(root)
    present = [name for name in _TEST_NAMES if (root / name).is_dir()]
    if present:
        raise InputError(f"{root} has a folder {present[0]!r} but none named 'train'. Expected {_LAYOUT}.")
    classes, files, labels = _list_classes(root)
    train, test = stratified(labels)
    if not test:
        raise InputError(
            f"{root} has one image per class: nothing is left for a test split. Add images or a test folder."
        )
    return Source(classes, _pick(files, labels, train), _pick(files, labels, test), tuple(files))


def _two_splits(root: Path) -> Source:
    folder = next((root / name for name in _TEST_NAMES if (root / name).is_dir()), None)
    if folder is None:
        raise InputError(
            f"{root} has a 'train' folder but no test split. Add a folder named 'test' or 'val' beside it."
        )
    classes, files, labels = _list_classes(root / "train")
    _, test_files, test_labels = _list_classes(folder, classes)
    train, test = _pick(files, labels, range(len(files))), _pick(test_files, test_labels, range(len(test_files)))
    return Source(classes, train, test, (*files, *test_files))


def _list_classes(root: Path, known: tuple[str, ...] | None = None) -> tuple[tuple[str, ...], list[Path], list[int]]:
    """(classes, files, labels) below `root`; `known` fixes the classes and their numbers."""
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not folders:
        raise InputError(f"{root} holds no class folders (and no parquet files). Expected {_LAYOUT}.")
    names = known or tuple(folder.name for folder in folders)
    files: list[Path] = []
    labels: list[int] = []
    for folder in folders:
        if folder.name not in names:
            raise InputError(
                f"{folder} is not one of the {len(names)} classes of the training split: {', '.join(names)}."
            )
        found = _list_images(folder)
        files += found
        labels += [names.index(folder.name)] * len(found)
    _check_depth(root, folders)
    return names, files, labels


def _list_images(folder: Path) -> list[Path]:
    found = [path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")]
    if not found:
        raise InputError(
            f"the class folder {folder} holds no images ({', '.join(SUFFIXES)}). Add some, or remove the folder."
        )
    return sorted(found)


def _check_depth(root: Path, folders: list[Path]) -> None:
    """A lone "class" that is itself a set of folders is a path given one level too high."""
    inner = [path.name for path in folders[0].iterdir() if path.is_dir()] if len(folders) == 1 else []
    if inner:
        raise InputError(
            f"{root} holds one folder, {folders[0].name!r}, which holds folders: {', '.join(sorted(inner)[:3])}. "
            f"Did you mean {folders[0]}?"
        )


def _pick(files: list[Path], labels: list[int], index: list[int] | range) -> Encoded:
    def images() -> Iterator[tuple[str, Path]]:
        return ((str(files[i]), files[i]) for i in index)

    return Encoded([labels[i] for i in index], images)
