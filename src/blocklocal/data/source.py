"""A data set that was found but not yet decoded."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from blocklocal.data.answers import AnswerKind


@dataclass(frozen=True)
class Encoded:
    """One split before decoding: a label per image, and the images in the same order.

    Attributes:
        labels: int64 [N], or [N, L] or [N, V] (see `Images`).
        images: a call that yields (where it is from, bytes or file). None stands for an image that is missing in the
            source; it counts as one that cannot be decoded.
        origin: where the split was found, for people.
        notes: what else they are to be told of it.
        masks: where every pixel has a class: the file of every image, and that of its mask. Labels then say nothing.
    """

    labels: Tensor
    images: Callable[[], Iterable[tuple[str, bytes | Path | None]]]
    origin: str
    notes: tuple[str, ...] = ()
    masks: tuple[tuple[Path, Path], ...] = ()


@dataclass(frozen=True)
class Unlabelled:
    """A split that is there but cannot be used, because no image has a label.

    Attributes:
        why: how that shows ("its 3 images lie in no class folder").
        remedy: what its owner can do.
    """

    origin: str
    why: str
    remedy: str = ""


@dataclass(frozen=True)
class Source:
    """A data set found but not yet decoded.

    Attributes:
        classes: names of the classes, or of the columns of labels or values; () for classes of pixels to be counted.
        files: all the files it is made of.
        kind: what the images are asked for.
    """

    classes: tuple[str, ...]
    train: Encoded
    test: Encoded
    validation: Encoded | None = None
    files: tuple[Path, ...] = ()
    kind: AnswerKind = "classes"

    @property
    def splits(self) -> dict[str, Encoded]:
        """The splits by name; training comes first."""
        own = {} if self.validation is None else {"validation": self.validation}
        return {"train": self.train, **own, "test": self.test}

    def told(self) -> list[str]:
        """All that is said of where the images come from: other words mean another set to the cache."""
        return [text for split in self.splits.values() for text in (split.origin, *split.notes)]
