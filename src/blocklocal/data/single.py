"""One image as it is wanted: in the mode and the size of its set. Processes that decode import this, and not torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from blocklocal.data.picture import BadImage, open_picture, resize_and_crop, to_array, to_mode

TO_COLOUR = "grey shown in RGB, as others are in colour"
TO_GREY = "colours turned grey, as all training images are grey"


@dataclass(frozen=True)
class Wish:
    """How images are wanted.

    Attributes:
        mode: "L", "RGB", or None for whichever of them an image is.
        size: pixels of a side, None for as it is.
    """

    mode: str | None = None
    size: int | None = None


@dataclass(frozen=True)
class Decoded:
    """uint8 [C, H, W], and what was changed on the way there."""

    pixels: np.ndarray
    changes: tuple[str, ...] = ()


Answer = Decoded | BadImage


def decode_one(source: bytes | Path | None, wish: Wish) -> Answer:
    """The image, or why it cannot be used."""
    try:
        picture = open_picture(source)
        image, changes = picture.image, picture.changes
        if wish.mode is not None and image.mode != wish.mode:
            changes = (*changes, TO_GREY if wish.mode == "L" else TO_COLOUR)
            image = to_mode(image, wish.mode)
        if wish.size is not None:
            image = resize_and_crop(image, (wish.size, wish.size))
    except BadImage as error:
        return error
    return Decoded(to_array(image), changes)
