"""Image sets: uint8 pixels in memory or in a file, their targets, three splits, and statistics to normalise by."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from blocklocal._common.errors import InputError
from blocklocal.data.answers import UNKNOWN, Answers
from blocklocal.data.pixel_file import PixelFile, Pixels, in_pieces

_LEVELS = 255  # the largest uint8 pixel value, read as 1.0
_STD_FLOOR = 1 / _LEVELS  # one grey level: a constant channel is normalised to 0, not to infinity
_CHUNK = 2048  # images summed or hashed at a time, so that it needs little memory
_DIGEST_BYTES = 16
_TYPES = {1: (torch.int64,), 2: (torch.int64, torch.float32), 3: (torch.uint8,)}  # of labels, by their dimensions
NO_CLASS = 255  # in a mask: this pixel has no target


@dataclass(frozen=True, eq=False)
class Images:
    """One split.

    Attributes:
        pixels: uint8 [N, C, H, W], a tensor; or a `PixelFile`, which is read where it is indexed.
        labels: int64 [N], numbers of classes; int64 [N, L], binary labels; float32 [N, V], values; or uint8 [N, H, W],
            the class of every pixel, `NO_CLASS` where there is none.

    Raises:
        InputError: a type or shape is another one.
    """

    pixels: Pixels
    labels: Tensor

    def __post_init__(self) -> None:
        if self.pixels.dtype != torch.uint8 or self.pixels.ndim != 4:
            given = f"{self.pixels.dtype} {list(self.pixels.shape)}"
            raise InputError(f"pixels must be torch.uint8 [N, C, H, W], not {given}. Scale to 0..255 and convert them.")
        if self.labels.dtype not in _TYPES.get(self.labels.dim(), ()) or len(self.labels) != len(self.pixels):
            given = f"{self.labels.dtype} {list(self.labels.shape)}"
            raise InputError(f"labels must be torch.int64 [{len(self.pixels)}], one per image, not {given}.")

    def __len__(self) -> int:
        return len(self.pixels)

    def subset(self, index: Tensor | Sequence[int] | slice) -> Images:
        """The images at `index` (positions, a mask or a slice), in that order."""
        chosen = index if isinstance(index, (Tensor, slice)) else torch.as_tensor(list(index), dtype=torch.int64)
        pixels = self.pixels.subset(chosen) if isinstance(self.pixels, PixelFile) else self.pixels[chosen]
        return Images(pixels, self.labels[chosen])

    def read(self) -> Tensor:
        """All pixels in memory, uint8 [N, C, H, W]."""
        return self.pixels[:]


@dataclass(frozen=True, eq=False)
class ImageSet:
    """A whole data set, split and ready to train on.

    Attributes:
        validation: may have no images.
        answers: what the images are asked for, where that is not one of the classes; `classes` are then its names.
        mean, std: per channel, of pixels in [0, 1], from the training split alone.
        skipped: number of images that were left out because they could not be decoded.
        account: one line per split: what was read from where, which part it plays, what was left out or changed.
    """

    name: str
    train: Images
    validation: Images
    test: Images
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    skipped: int = 0
    account: tuple[str, ...] = ()
    answers: Answers | None = None

    @property
    def channels(self) -> int:
        return self.train.pixels.shape[1]

    @property
    def height(self) -> int:
        return self.train.pixels.shape[2]

    @property
    def width(self) -> int:
        return self.train.pixels.shape[3]

    def fingerprint(self) -> dict[str, str]:
        """Name of a split → a digest (blake2b, hex) of its pixels, labels and shape, and of the class names.

        It depends on nothing else: not on where the files lie, nor on the number of threads. One changed pixel, label
        or name, or another order, gives another digest.
        """
        return {
            name: _digest(images, self.classes)
            for name, images in (("train", self.train), ("validation", self.validation), ("test", self.test))
        }


def as_targets(labels: Tensor) -> Tensor:
    """Labels as a network is asked for them: classes of pixels as int64, -100 where there is none."""
    if labels.dtype != torch.uint8:
        return labels
    return labels.long().masked_fill_(labels == NO_CLASS, UNKNOWN)


def channel_statistics(pixels: Pixels) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of uint8 [N, C, H, W] read as [0, 1]; the deviation is at least 1/255.

    Summed in integers, so the result is exact and depends on neither the order of the images nor the thread count.
    """
    total, squares = (torch.zeros(pixels.shape[1], dtype=torch.int64) for _ in range(2))
    for chunk in in_pieces(pixels, _CHUNK):
        wide = chunk.to(torch.int32)  # 255² fits; sum() of int32 accumulates in int64
        total += wide.sum(dim=(0, 2, 3))
        squares += (wide * wide).sum(dim=(0, 2, 3))
    count = len(pixels) * pixels.shape[2] * pixels.shape[3]
    mean = total.double() / count
    variance = (squares.double() / count - mean**2).clamp_min(0)
    std = (variance.sqrt() / _LEVELS).clamp_min(_STD_FLOOR)
    return tuple((mean / _LEVELS).tolist()), tuple(std.tolist())


def _digest(images: Images, classes: tuple[str, ...]) -> str:
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    digest.update(json.dumps([list(images.pixels.shape), classes]).encode())
    for start in range(0, len(images), _CHUNK):
        some = images.subset(slice(start, start + _CHUNK))
        for pixels in in_pieces(some.pixels, _CHUNK):
            digest.update(pixels.contiguous().cpu().numpy().reshape(-1).data)
        digest.update(some.labels.contiguous().cpu().numpy().reshape(-1).data)
    return digest.hexdigest()
