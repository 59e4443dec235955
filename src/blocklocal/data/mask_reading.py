"""Masks: pictures whose pixels are numbers of classes, from palette or grey PNGs.

Shapes: N masks, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from blocklocal._common.errors import InputError
from blocklocal._common.limits import check_memory
from blocklocal.data.images import NO_CLASS
from blocklocal.data.picture import resize_and_crop

_MODES = ("P", "L", "1")
_ORIENTATION = 0x0112  # the EXIF tag; from 5 on, a picture is turned by a quarter
_TURNED = 5


def read_masks(pairs: Sequence[tuple[Path, Path]], size: int | None, shape: Sequence[int], count: int) -> Tensor:
    """The masks of some images: uint8 [N, H, W], `NO_CLASS` where there is no target.

    Args:
        pairs: the file of every image, and that of its mask.
        size: scale and crop them as the images are, to so many pixels a side.
        shape: (H, W) then.
        count: of the classes; 0 where it is not known yet.

    Raises:
        InputError: one cannot be used; it says which and why.
    """
    check_memory(f"{len(pairs):,} masks of {shape[1]}x{shape[0]}", len(pairs) * shape[0] * shape[1], "use fewer")
    masks = np.empty((len(pairs), *shape), dtype=np.uint8)
    for place, (image, mask) in zip(masks, pairs, strict=True):
        place[:] = _read(image, mask, size)
        highest = int(place.max(where=place != NO_CLASS, initial=0))
        if count and highest >= count:
            raise InputError(
                f"{mask} has the class {highest}, and there are {count} classes, 0 to {count - 1} (255: no target). "
                "Add its name to classes.txt, or mend the mask."
            )
    return torch.from_numpy(masks)


def counted(masks: Tensor, what: str) -> int:
    """How many classes there are, 0 up to the highest number.

    Raises:
        InputError: there are fewer than two.
    """
    known = masks[masks != NO_CLASS]
    count = int(known.max()) + 1 if len(known) else 0
    if count < 2:
        raise InputError(
            f"the masks of {what} hold {'the class 0 alone' if count else 'no class'}: there is nothing to tell apart. "
            "Pixels are numbers of classes from 0 on, and 255 means no target: write what is shown as 1, 2, …"
        )
    return count


def _read(image: Path, mask: Path, size: int | None) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(mask) as opened:
            if opened.mode not in _MODES:
                raise InputError(
                    f"the mask {mask} has pixels of mode {opened.mode}, and numbers of classes are expected: "
                    "write it as a palette or 8-bit grey PNG, without colours or transparency."
                )
            opened.load()
            found = opened.copy()
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(f"the mask {mask} cannot be decoded ({error}). Write it again as a PNG.") from error
    if found.size != (there := _upright_size(image)):
        raise InputError(
            f"the mask {mask} has {found.size[0]}x{found.size[1]} pixels, and its image {image} "
            f"{there[0]}x{there[1]}: give both one size."
        )
    return np.asarray(found if size is None else resize_and_crop(found, (size, size), nearest=True))


def _upright_size(image: Path) -> tuple[int, int]:
    """(width, height) of an image as it is shown; it has been decoded before."""
    from PIL import Image

    with Image.open(image) as opened:
        width, height = opened.size
        return (height, width) if opened.getexif().get(_ORIENTATION, 1) >= _TURNED else (width, height)
