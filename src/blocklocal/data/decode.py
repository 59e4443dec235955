"""From encoded images to one uint8 tensor per split: one colour mode, one size, and what happens to a bad image."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from blocklocal._common.errors import InputError
from blocklocal._common.limits import check_memory
from blocklocal.data.images import Images
from blocklocal.data.names import many
from blocklocal.data.picture import BadImage, open_picture, resize_and_crop, to_array, to_mode
from blocklocal.data.source import Encoded, Source

if TYPE_CHECKING:
    from PIL.Image import Image

log = logging.getLogger("blocklocal")

COPIES = 2  # of the pixels in memory at once: as decoded, and cut into splits (or on their way to the cache)
SMALLER = "pass a smaller --image-size, or use fewer images"


@dataclass(frozen=True)
class Told:
    """What is said of a split: where it comes from, and what was left out or changed."""

    origin: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Raw:
    """A decoded data set before a validation split is taken. This is what the cache holds.

    Attributes:
        validation: the set's own, where it has one beside a test split.
        told: by name of the split.
    """

    train: Images
    test: Images
    classes: tuple[str, ...]
    skipped: int
    validation: Images | None = None
    told: dict[str, Told] = field(default_factory=dict)

    @property
    def splits(self) -> dict[str, Images]:
        """The splits by name; training comes first."""
        own = {} if self.validation is None else {"validation": self.validation}
        return {"train": self.train, **own, "test": self.test}


class ImageDecoder:
    """Decodes the splits of one set, training first: it decides the colour mode of all, its first image the size.

    A training split with any image in colour is RGB.

    Args:
        total: images of all splits, for the memory they need together.
    """

    def __init__(self, image_size: int | None, skip_bad: bool, total: int = 0):
        self.image_size = image_size
        self.skip_bad = skip_bad
        self.total = total
        self.mode: str | None = None  # until the first split is decoded
        self.size = (0, 0)  # width, height
        self.first = ""
        self.skipped = 0
        self.notes: tuple[str, ...] = ()  # on the split decoded last
        self._changes: tuple[str, ...] = ()  # of the image opened last

    def split(self, encoded: Encoded, what: str) -> Images:
        """Decode one split.

        Args:
            what: its name, for errors.

        Raises:
            InputError: an image cannot be used, or none is left.
        """
        count, before = len(encoded.labels), self.skipped
        stack = _Stack(count, what, max(self.total, count))
        kept: list[int] = []
        reason, changes = "", Counter()
        for i, (where, source) in enumerate(encoded.images()):
            try:
                image = self._resized(self._open(source))
            except BadImage as error:
                reason = self._refuse(where, error)
                continue
            self._check_size(image, where)
            changes.update(self._changes)
            stack.add(to_array(image))
            kept.append(i)
        if not kept:
            raise InputError(f"none of the {count} images of {what} can be decoded; the last: {reason}")
        self._settle_mode(stack, changes)
        self.notes = _notes(changes, self.skipped - before)
        return Images(torch.from_numpy(stack.taken()), encoded.labels[torch.tensor(kept)])

    def _open(self, source: bytes | Path | None) -> Image:
        """One image, upright, in the mode of the set if that is known, else grey or RGB as it is."""
        picture = open_picture(source)
        self._changes = picture.changes
        if self.mode is None or picture.image.mode == self.mode:
            return picture.image
        self._changes = (*picture.changes, _TO_GREY if self.mode == "L" else _TO_COLOUR)
        return to_mode(picture.image, self.mode)

    def _resized(self, image: Image) -> Image:
        return image if self.image_size is None else resize_and_crop(image, (self.image_size, self.image_size))

    def _check_size(self, image: Image, where: str) -> None:
        if not self.first:
            self.first, self.size = where, image.size
        if image.size != self.size:
            raise InputError(
                f"{where} has {image.size[0]}x{image.size[1]} pixels, but {self.first} has "
                f"{self.size[0]}x{self.size[1]}. All images must have one size: pass --image-size N to resize them."
            )

    def _settle_mode(self, stack: _Stack, changes: Counter[str]) -> None:
        if self.mode is None:
            self.mode = "L" if stack.channels == 1 else "RGB"
            if self.mode == "RGB" and stack.greys:
                changes[_TO_COLOUR] += stack.greys

    def _refuse(self, where: str, error: BadImage) -> str:
        reason = f"{where}: {error}"
        if not self.skip_bad:
            raise InputError(
                f"cannot decode {reason}. Repair or remove it, or leave such images out with --skip-bad."
            ) from error
        log.log(
            logging.DEBUG if self.skipped else logging.WARNING, "left out an image that cannot be decoded: %s", reason
        )
        self.skipped += 1
        return reason


_TO_COLOUR = "grey shown in RGB, as others are in colour"
_TO_GREY = "colours turned grey, as all training images are grey"


class _Stack:
    """Images of a split one after the other, uint8 [N, C, H, W]; grey until an image in colour comes."""

    def __init__(self, count: int, what: str, total: int):
        self.count, self.what, self.total = count, what, total
        self.pixels = np.empty((0, 0, 0, 0), dtype=np.uint8)
        self.filled = self.greys = 0

    @property
    def channels(self) -> int:
        return self.pixels.shape[1]

    def add(self, image: np.ndarray) -> None:
        """image: uint8 [C, H, W]."""
        if len(image) > self.channels:
            old, self.pixels = self.pixels, self._room(image.shape)
            if self.filled:
                self.pixels[: self.filled] = old[: self.filled]
        self.pixels[self.filled] = image
        self.filled += 1
        self.greys += len(image) == 1

    def taken(self) -> np.ndarray:
        """The images that were added."""
        return self.pixels if self.filled == self.count else self.pixels[: self.filled].copy()

    def _room(self, shape: tuple[int, ...]) -> np.ndarray:
        channels, height, width = shape
        size = f"the {self.total:,} images with {self.what} ({channels}x{height}x{width} each)"
        check_memory(size, COPIES * self.total * channels * height * width, SMALLER)
        try:
            return np.empty((self.count, *shape), dtype=np.uint8)
        except MemoryError as error:
            raise InputError(f"there is not enough memory for {size}: {SMALLER}.") from error


def _notes(changes: Counter[str], skipped: int) -> tuple[str, ...]:
    notes = [f"{change} ({many(count, 'image', 'images')})" for change, count in sorted(changes.items())]
    left = [f"left out: {many(skipped, 'image', 'images')} that cannot be decoded"] if skipped else []
    return (*left, *([f"changed: {', '.join(notes)}"] if notes else []))


def decode(source: Source, name: str, image_size: int | None, skip_bad: bool) -> Raw:
    """Decode every split; the training split comes first and so decides mode and size."""
    total = sum(len(split.labels) for split in source.splits.values())
    decoder = ImageDecoder(image_size, skip_bad, total)
    images, told = {}, {}
    for split, encoded in source.splits.items():
        full = {"train": "training"}.get(split, split)
        images[split] = decoder.split(encoded, f"the {full} split of {name}")
        told[split] = Told(encoded.origin, (*encoded.notes, *decoder.notes))
    if decoder.skipped:
        log.warning("%s: left out %d of %d images that cannot be decoded", name, decoder.skipped, total)
    return Raw(images["train"], images["test"], source.classes, decoder.skipped, images.get("validation"), told)
