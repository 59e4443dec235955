"""Image files with the names of their classes: what class folders and tables of labels are read into."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from blocklocal._common.errors import InputError
from blocklocal.data.answers import AnswerKind
from blocklocal.data.names import few
from blocklocal.data.roles import cast
from blocklocal.data.source import Encoded, Source, Unlabelled
from blocklocal.data.splits import stratified


@dataclass(frozen=True)
class Listing:
    """The files of one split and their classes.

    Attributes:
        names: the class name of each file.
        classes: the different names in their order.
        tables: the files that the labels were read from.
        targets: int64 [N, L] or float32 [N, V], where the images are asked for labels or values; `classes` are then
            the columns of these, and the names say nothing.
    """

    files: list[Path]
    names: list[str]
    classes: tuple[str, ...]
    origin: str
    notes: tuple[str, ...] = ()
    tables: tuple[Path, ...] = ()
    targets: Tensor | None = None

    @property
    def kind(self) -> AnswerKind:
        """What the images are asked for."""
        if self.targets is None:
            return "classes"
        return "values" if self.targets.is_floating_point() else "labels"


def of_splits(parts: Mapping[str, Listing | Unlabelled], where: Path, missing: str) -> Source:
    """A set that comes in splits, by role.

    Raises:
        InputError: the training split does not have a class of another one.
    """
    train = parts.get("train")
    if not isinstance(train, Listing):
        cast({role: part for role, part in parts.items() if isinstance(part, Unlabelled)}, where, missing)  # it refuses
    assert isinstance(train, Listing)
    encoded = {
        role: part
        if isinstance(part, Unlabelled)
        else _encoded(part, range(len(part.files)), train.classes, part.origin)
        for role, part in parts.items()
    }
    files = [path for part in parts.values() if isinstance(part, Listing) for path in (*part.files, *part.tables)]
    training, validation, test = cast(encoded, where, missing)
    return Source(train.classes, training, test, validation, tuple(files), train.kind)


def of_whole(listing: Listing, where: Path) -> Source:
    """A set without splits: a fixed, stratified fifth of it becomes the test split.

    Raises:
        InputError: every class has one image only.
    """
    numbers = {name: number for number, name in enumerate(listing.classes)}
    train, test = stratified([numbers.get(name, 0) for name in listing.names])
    if not test:
        raise InputError(
            f"{where} has one image per class: nothing is left for a test split. Add images or a test folder."
        )
    share = "a fixed fifth" + (" of every class" if listing.targets is None else "")
    origin = f"{listing.origin} ({share}; the set has no test split)"
    return Source(
        listing.classes,
        _encoded(listing, train, listing.classes, listing.origin),
        _encoded(listing, test, listing.classes, origin, notes=()),
        files=(*listing.files, *listing.tables),
        kind=listing.kind,
    )


def _encoded(
    listing: Listing,
    index: Sequence[int],
    classes: tuple[str, ...],
    origin: str,
    notes: tuple[str, ...] | None = None,
) -> Encoded:
    numbers = {name: number for number, name in enumerate(classes)}
    for name in listing.classes:
        if name not in numbers:
            raise InputError(
                f"{listing.origin}: {name} is not one of the {len(classes)} classes of the training split: "
                f"{few(classes)}."
            )

    def images() -> Iterator[tuple[str, Path]]:
        return ((str(listing.files[i]), listing.files[i]) for i in index)

    if listing.targets is None:
        labels = torch.tensor([numbers[listing.names[i]] for i in index], dtype=torch.int64)
    else:
        labels = listing.targets[list(index)]
    return Encoded(labels, images, origin, listing.notes if notes is None else notes)
