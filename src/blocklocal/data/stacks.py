"""Where decoded images are put, one after the other: into memory, or into a file where they would take too much of it.

Shapes: N images of a split, C channels, H rows, W columns.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from blocklocal._common.choices import ImagesIn, values
from blocklocal._common.errors import InputError, unknown
from blocklocal._common.limits import available_bytes, check_memory, in_bytes
from blocklocal.data.draft import Draft
from blocklocal.data.pixel_file import HERE, PixelFile, Pixels

COPIES = 2  # of the pixels in memory at once: as decoded, and cut into splits (or on their way to the cache)
SMALLER = "pass a smaller --image-size, use fewer images, or leave them on disk (--images-in disk)"
SHARE = 2  # in memory where they need at most 1/SHARE of what is free
_WORTH_SAYING = 2**28  # bytes of pixels; fewer lie in memory without a word
_COLOURS = 3


class Room:
    """Where the images of one set are put.

    Args:
        wanted: "memory", "disk", or "auto": memory where they take at most half of what is free.
        folder: where a file of them is made.
        classes: their names.

    Attributes:
        chosen: "memory" or "disk", once the first image is known.
        said: one line about that; empty where it is not worth one.
    """

    def __init__(self, wanted: ImagesIn, folder: Path):
        if wanted not in values(ImagesIn):
            raise unknown("images_in", wanted, values(ImagesIn))
        if wanted == "disk" and not HERE:
            raise InputError("images_in='disk' needs a system with preadv (Linux, macOS): use 'memory' here.")
        self.wanted, self.folder = wanted, folder
        self.classes: tuple[str, ...] = ()
        self.chosen, self.said = "", ""
        self.draft: Draft | None = None

    def choose(self, pixels: int) -> str:
        """Decide once, for a set of at most so many bytes."""
        if self.chosen:
            return self.chosen
        free, needed = available_bytes(), COPIES * pixels
        fits = free is None or SHARE * needed <= free
        self.chosen = self.wanted if self.wanted != "auto" else "memory" if fits or not HERE else "disk"
        size = f"up to {in_bytes(pixels)} of pixels"
        if self.wanted != "auto":
            self.said = f"images: in {'memory' if self.chosen == 'memory' else 'a file on disk'}, as asked ({size})"
        elif self.chosen == "disk":
            self.said = (
                f"images: read from disk batch by batch, as {size}, {COPIES} times while they are prepared, are more "
                f"than half of the {in_bytes(free or 0)} of memory that are free"
            )
        elif pixels > _WORTH_SAYING:
            self.said = f"images: in memory, where they fit ({size})"
        return self.chosen

    def stack(self, count: int, what: str, total: int, image: tuple[int, ...]) -> MemoryStack | FileStack:
        """An empty stack for `count` images of a set of `total`, of the shape [C, H, W] of `image`."""
        if self.choose(total * _COLOURS * image[1] * image[2]) == "memory":
            return MemoryStack(count, what, total, image)
        if self.draft is None:
            self.draft = Draft(self.folder, self.classes)
            self.draft.check_space(total * int(np.prod(image)))
        return FileStack(self.draft, image)


class MemoryStack:
    """Images of a split in memory; grey until an image in colour comes."""

    def __init__(self, count: int, what: str, total: int, image: tuple[int, ...]):
        self.count, self.what, self.total = count, what, total
        self.pixels = self._room(image)
        self.filled = self.greys = 0

    @property
    def channels(self) -> int:
        return self.pixels.shape[1]

    def add(self, image: np.ndarray) -> None:
        """Put `image`, uint8 [C, H, W], behind the others."""
        if len(image) > self.channels:
            old, self.pixels = self.pixels, self._room(image.shape)
            self.pixels[: self.filled] = old[: self.filled]
        self.pixels[self.filled] = image
        self.filled += 1
        self.greys += len(image) == 1

    def taken(self) -> Pixels:
        """The images that were added."""
        return torch.from_numpy(self.pixels if self.filled == self.count else self.pixels[: self.filled].copy())

    def _room(self, shape: tuple[int, ...]) -> np.ndarray:
        channels, height, width = shape
        size = f"the {self.total:,} images with {self.what} ({channels}x{height}x{width} each)"
        check_memory(size, COPIES * self.total * channels * height * width, SMALLER)
        try:
            return np.empty((self.count, *shape), dtype=np.uint8)
        except MemoryError as error:
            raise InputError(f"there is not enough memory for {size}: {SMALLER}.") from error


class FileStack:
    """Images of a split at the end of a draft; grey until an image in colour comes."""

    def __init__(self, draft: Draft, image: tuple[int, ...]):
        self.draft, self.shape, self.start = draft, image, draft.end
        self.filled = self.greys = 0

    @property
    def channels(self) -> int:
        return self.shape[0]

    def add(self, image: np.ndarray) -> None:
        """Put `image`, uint8 [C, H, W], behind the others."""
        if len(image) > self.channels:
            self.draft.spread(self.start, self.filled, int(np.prod(self.shape)), len(image))
            self.shape = image.shape
        self.greys += len(image) == 1
        if len(image) < self.channels:
            image = image.repeat(self.channels, 0)
        self.draft.write(image, self.start + self.filled * image.size)
        self.filled += 1

    def taken(self) -> Pixels:
        """The images that were added, as they lie in the file."""
        return PixelFile(self.draft.path, self.start, (self.filled, *self.shape))
