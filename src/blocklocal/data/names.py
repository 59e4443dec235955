"""Class names: how they are shown, put in order and compared. A label's meaning is its name, never its number alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from blocklocal._common.errors import InputError
from blocklocal._common.ranges import MOST_CLASSES
from blocklocal._common.screen import printable

_SHOWN = 10  # names that a message lists
_DIGITS = 18  # a name of more digits is no number that somebody counts with


def class_names(names: Sequence[object], where: str) -> tuple[str, ...]:
    """The class names of a set as they are shown.

    Raises:
        InputError: there are none, too many, or the same one twice.
    """
    if len(names) == 0:
        raise InputError(f"{where} has an empty list of class names. Name its classes, or remove the list.")
    check_count(len(names), where)
    shown = tuple(printable(name, lines=False) for name in names)
    if len(set(shown)) < len(shown):
        seen: set[str] = set()
        twice = next(name for name in shown if name in seen or seen.add(name))
        raise InputError(f"{where} has two classes called {twice!r}. Give every class a name of its own.")
    return shown


def check_count(count: int, where: str) -> None:
    """Raise InputError for more classes than a set of images can have."""
    if count > MOST_CLASSES:
        raise InputError(
            f"{where} has {count:,} classes, more than the {MOST_CLASSES:,} that can be told apart here. "
            "Is its label column the right one?"
        )


def in_order(names: Iterable[str]) -> list[str]:
    """Different names in their order: by value where all are whole numbers, else alphabetical."""
    different = set(names)
    if all(name.isascii() and name.isdigit() and len(name) <= _DIGITS for name in different):
        return sorted(different, key=lambda name: (int(name), name))
    return sorted(different)


def few(names: Sequence[str]) -> str:
    """The names as a message lists them."""
    listed = [printable(name, lines=False) for name in names[:_SHOWN]]
    return ", ".join(listed) + (f", … ({len(names):,} in all)" if len(names) > _SHOWN else "")


def renumber(labels: Tensor, theirs: tuple[str, ...], ours: tuple[str, ...], where: str, first: str) -> Tensor:
    """Labels int64 [N] that count in the names `theirs` → the same classes counted in `ours`, the names of `first`.

    Raises:
        InputError: a name is not one of `ours`; the message has both lists.
    """
    if theirs == ours:
        return labels
    places = {name: place for place, name in enumerate(ours)}
    unknown = [name for name in theirs if name not in places]
    if unknown:
        raise InputError(
            f"{where} has the classes {few(theirs)}, but {first} has {few(ours)}: {unknown[0]!r} is not one of these. "
            "Give both the same class names."
        )
    return torch.tensor([places[name] for name in theirs], dtype=torch.int64)[labels]


def many(count: int, one: str, several: str) -> str:
    """Number and noun: "1 image" or "1,000 images"."""
    return f"{count:,} {one if count == 1 else several}"
