"""What lies in a folder of images, and what is passed over there: hidden files, pipes, devices, links to folders."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from blocklocal._common.errors import InputError

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".webp", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".avif"),
)
# What systems leave beside the user's files, besides all names that start with a dot.
_SYSTEM = {"__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found", "thumbs.db", "desktop.ini"}

# Why something is left out: (of one, of several).
HIDDEN_FILE = ("hidden file", "hidden files")
HIDDEN_FOLDER = ("hidden folder", "hidden folders")
OTHER = ("file that is no image by its name", "files that are no images by their names")
SPECIAL = ("pipe, socket or device", "pipes, sockets or devices")
LINK = ("link to a folder, which is not followed here", "links to folders, which are not followed here")
LOOSE = ("image beside the class folders", "images beside the class folders")
BESIDE = ("folder beside the splits", "folders beside the splits")
UNNAMED = ("image that the table does not name", "images that the table does not name")
TABLE = ("table that gives no labels", "tables that give no labels")


class LeftOut:
    """What was passed over: how often for each reason, with the first name as an example."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()
        self._first: dict[tuple[str, str], str] = {}

    def add(self, reason: tuple[str, str], name: str, count: int = 1) -> None:
        """`reason` is one of the constants above."""
        if count:
            self._counts[reason] += count
            self._first.setdefault(reason, name)

    def count(self, reason: tuple[str, str]) -> int:
        return self._counts[reason]

    def notes(self) -> tuple[str, ...]:
        """A line like "left out: 3 hidden files (.DS_Store, …)", or nothing."""
        if not self._counts:
            return ()
        parts = [self._part(reason, count) for reason, count in self._counts.items()]
        return (f"left out: {', '.join(parts)}",)

    def _part(self, reason: tuple[str, str], count: int) -> str:
        more = ", …" if count > 1 else ""
        return f"{count:,} {reason[count > 1]} ({self._first[reason]}{more})"


def subfolders(folder: Path, left: LeftOut) -> list[Path]:
    """The folders directly below that are not hidden, in order of their names. A link upwards is left out."""
    found = []
    for entry in filter(_is_folder, _entries(folder)):
        if _hidden(entry.name):
            left.add(HIDDEN_FOLDER, entry.name)
        elif entry.is_symlink() and Path(entry.path).resolve() in (folder.resolve(), *folder.resolve().parents):
            left.add(LINK, entry.name)
        else:
            found.append(Path(entry.path))
    return sorted(found)


def list_images(folder: Path, left: LeftOut) -> list[Path]:
    """Every image file in the folder and below, in order. A link that leads nowhere counts: reading it says so."""
    found = []
    for path in files_below(folder, left):
        if is_image(path):
            found.append(path)
        else:
            left.add(OTHER, path.name)
    return sorted(found)


def images_directly_in(folder: Path) -> list[Path]:
    """The image files of a folder itself, without those below."""
    return files_directly_in(folder, SUFFIXES)


def files_directly_in(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """The visible regular files of a folder itself that have one of these suffixes, in any case."""
    return sorted(
        Path(entry.path)
        for entry in _entries(folder)
        if entry.name.lower().endswith(suffixes) and not _hidden(entry.name) and _is_file(entry)
    )


def holds_images(folder: Path) -> bool:
    """Whether there is an image file in the folder or below."""
    return any(map(is_image, files_below(folder, LeftOut())))


def is_image(path: Path) -> bool:
    """Whether a file is an image by its suffix."""
    return path.suffix.lower() in SUFFIXES


def files_below(folder: Path, left: LeftOut) -> Iterator[Path]:
    """Every visible file below. Links to folders are not followed: they could lead in a circle, or to other classes."""
    pending = [folder]
    while pending:
        here = pending.pop()
        for entry in _entries(here):
            if _hidden(entry.name):
                left.add(HIDDEN_FOLDER if _is_folder(entry) else HIDDEN_FILE, entry.name)
            elif _is_folder(entry) and entry.is_symlink():
                left.add(LINK, entry.name)
            elif _is_folder(entry):
                pending.append(Path(entry.path))
            elif _is_special(entry):
                left.add(SPECIAL, entry.name)
            else:
                yield Path(entry.path)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"cannot read the folder {folder}: {error.strerror}. Change that, or move it away.") from error


def _hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in _SYSTEM


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False


def _is_special(entry: os.DirEntry[str]) -> bool:
    try:
        return not stat.S_ISREG(entry.stat().st_mode)
    except OSError:  # a link that leads nowhere, or to itself: decoding it decides what happens
        return False
