"""From encoded images to one uint8 tensor per split: one colour mode, one size, and what happens to a bad image."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field

import torch

from blocklocal._common.errors import InputError
from blocklocal.data.answers import AnswerKind
from blocklocal.data.decoding import decoded
from blocklocal.data.images import NO_CLASS, Images
from blocklocal.data.mask_reading import counted, read_masks
from blocklocal.data.names import many
from blocklocal.data.picture import BadImage
from blocklocal.data.single import TO_COLOUR, Wish
from blocklocal.data.source import Encoded, Source
from blocklocal.data.stacks import FileStack, MemoryStack, Room

log = logging.getLogger("blocklocal")


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
        kind: what the images are asked for.
    """

    train: Images
    test: Images
    classes: tuple[str, ...]
    skipped: int
    validation: Images | None = None
    told: dict[str, Told] = field(default_factory=dict)
    kind: AnswerKind = "classes"

    @property
    def splits(self) -> dict[str, Images]:
        """The splits by name; training comes first."""
        own = {} if self.validation is None else {"validation": self.validation}
        return {"train": self.train, **own, "test": self.test}


class ImageDecoder:
    """Decodes the splits of one set, training first: it decides the colour mode of all, its first image the size.

    A training split with any image in colour is RGB.

    Args:
        room: where the pixels are put.
        total: images of all splits, for the memory they need together.
        workers: processes that decode, see `decoded`.
    """

    def __init__(self, image_size: int | None, skip_bad: bool, room: Room, total: int = 0, workers: int | None = None):
        self.image_size = image_size
        self.skip_bad = skip_bad
        self.room, self.total, self.workers = room, total, workers
        self.mode: str | None = None  # until the first split is decoded
        self.shape: tuple[int, ...] = (0, 0)  # height, width
        self.first = ""
        self.skipped = 0
        self.count = 0  # of the classes of pixels, until they are known
        self.notes: tuple[str, ...] = ()  # on the split decoded last

    def split(self, encoded: Encoded, what: str) -> Images:
        """Decode one split.

        Args:
            what: its name, for errors.

        Raises:
            InputError: an image cannot be used, or none is left.
        """
        count, before = len(encoded.labels), self.skipped
        stack: MemoryStack | FileStack | None = None
        kept: list[int] = []
        reason, changes = "", Counter()
        wish = Wish(self.mode, self.image_size)
        answers = decoded(encoded.images(), wish, count=count, workers=self.workers)
        for i, (where, answer) in enumerate(answers):
            if isinstance(answer, BadImage):
                reason = self._refuse(where, answer)
                continue
            self._check_size(answer.pixels.shape[1:], where)
            changes.update(answer.changes)
            stack = stack or self.room.stack(count, what, max(self.total, count), answer.pixels.shape)
            stack.add(answer.pixels)
            kept.append(i)
        if stack is None:
            raise InputError(f"none of the {count} images of {what} can be decoded; the last: {reason}")
        self._settle_mode(stack, changes)
        self.notes = _notes(changes, self.skipped - before)
        if not encoded.masks:
            return Images(stack.taken(), encoded.labels[torch.tensor(kept)])
        masks = read_masks([encoded.masks[i] for i in kept], self.image_size, self.shape, self.count)
        self.count = self.count or counted(masks, what)
        return Images(stack.taken(), masks)

    def _check_size(self, shape: tuple[int, ...], where: str) -> None:
        if not self.first:
            self.first, self.shape = where, shape
        if shape != self.shape:
            raise InputError(
                f"{where} has {shape[1]}x{shape[0]} pixels, but {self.first} has {self.shape[1]}x{self.shape[0]}. "
                "All images must have one size: pass --image-size N to resize them."
            )

    def _settle_mode(self, stack: MemoryStack | FileStack, changes: Counter[str]) -> None:
        if self.mode is None:
            self.mode = "L" if stack.channels == 1 else "RGB"
            if self.mode == "RGB" and stack.greys:
                changes[TO_COLOUR] += stack.greys

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


def _notes(changes: Counter[str], skipped: int) -> tuple[str, ...]:
    notes = [f"{change} ({many(count, 'image', 'images')})" for change, count in sorted(changes.items())]
    left = [f"left out: {many(skipped, 'image', 'images')} that cannot be decoded"] if skipped else []
    return (*left, *([f"changed: {', '.join(notes)}"] if notes else []))


def decode(
    source: Source, name: str, image_size: int | None, skip_bad: bool, room: Room, workers: int | None = None
) -> Raw:
    """Decode every split; the training split comes first and so decides mode and size."""
    total = sum(len(split.labels) for split in source.splits.values())
    room.classes = source.classes or tuple(map(str, range(NO_CLASS)))
    decoder = ImageDecoder(image_size, skip_bad, room, total, workers)
    decoder.count = len(source.classes)
    images, told = {}, {}
    for split, encoded in source.splits.items():
        full = {"train": "training"}.get(split, split)
        images[split] = decoder.split(encoded, f"the {full} split of {name}")
        told[split] = Told(encoded.origin, (*encoded.notes, *decoder.notes))
    if decoder.skipped:
        log.warning("%s: left out %d of %d images that cannot be decoded", name, decoder.skipped, total)
    own, classes = images.get("validation"), source.classes or tuple(map(str, range(decoder.count)))
    return Raw(images["train"], images["test"], classes, decoder.skipped, own, told, source.kind)
