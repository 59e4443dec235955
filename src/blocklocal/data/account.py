"""What was read, in one line per split: how many images from where, which split plays which part, what was left out."""

from __future__ import annotations

import hashlib
import logging

from blocklocal.data.decode import Raw, Told
from blocklocal.data.images import Images
from blocklocal.data.names import few, many
from blocklocal.data.pixel_file import in_pieces

log = logging.getLogger("blocklocal")

_HASH_BYTES = 16
_PIECE = 2048  # images looked at at a time


def line(split: str, images: Images, told: Told, of: int | None = None) -> str:
    """One line of the account: "test: 1,000 images from photos/test, 2 classes, 3 channels, 32x32; left out: …".

    Args:
        of: how many there were, where `images` are some of them.
    """
    channels, height, width = images.pixels.shape[1:]
    count = many(len(images), "image", "images") if of in (None, len(images)) else f"{len(images):,} of {of:,} images"
    shape = f"{_asked(images)}, {many(channels, 'channel', 'channels')}, {width}x{height}"
    return "; ".join((f"{split}: {count} from {told.origin}, {shape}", *told.notes))


def _asked(images: Images) -> str:
    if images.labels.dim() == 3:
        return "a class per pixel"
    if images.labels.dim() == 2:
        count, values = images.labels.shape[1], images.labels.is_floating_point()
        return many(count, "value", "values") if values else many(count, "label", "labels")
    return many(len(images.labels.unique()), "class", "classes")


def without_images(raw: Raw, split: str) -> tuple[str, ...]:
    """A note on the classes of which a split holds no image."""
    if raw.kind != "classes":
        return ()
    there = set(raw.splits[split].labels.unique().tolist())
    missing = [name for number, name in enumerate(raw.classes) if number not in there]
    return (f"no image of {few(missing)}",) if missing else ()


def copies_in_training(raw: Raw) -> dict[str, tuple[str, ...]]:
    """Split → a note on its images that are, pixel for pixel, training images too. A warning says the same."""
    known = set(_hashes(raw.train))
    notes: dict[str, tuple[str, ...]] = {}
    for split, images in raw.splits.items():
        count = 0 if split == "train" else sum(each in known for each in _hashes(images))
        notes[split] = (f"{count:,} of them are training images too, pixel for pixel",) if count else ()
        if count:
            log.warning("%d of %d images of the %s split are training images too", count, len(images), split)
    return notes


def _hashes(images: Images) -> list[bytes]:
    return [
        hashlib.blake2b(each.tobytes(), digest_size=_HASH_BYTES).digest()
        for piece in in_pieces(images.pixels, _PIECE)
        for each in piece.numpy()
    ]
