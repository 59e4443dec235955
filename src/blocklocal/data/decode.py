"""From encoded images to one uint8 tensor: colour modes, sizes, and what happens to an image that cannot be read."""

from __future__ import annotations

import io
import logging
import struct
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from blocklocal.data.images import Images
from blocklocal.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

log = logging.getLogger("blocklocal")

# What Pillow's decoders are known to raise on damaged data. A broad `except Exception` would hide our own mistakes.
_DAMAGED = (OSError, SyntaxError, ValueError, TypeError, EOFError, LookupError, OverflowError, struct.error, zlib.error)
_GREY_MODES = ("1", "L", "LA", "La", "I")
_CHANNELS = {"L": 1, "RGB": 3}
_WHITE = 255


@dataclass(frozen=True)
class Encoded:
    """One split before decoding: a label per image, and a call that yields (where it is from, bytes or file).

    Both are in the same order. An image that is missing in the source is None; it counts as one that cannot be decoded.
    """

    labels: list[int]
    images: Callable[[], Iterable[tuple[str, bytes | Path | None]]]


@dataclass(frozen=True)
class Source:
    """A data set found but not yet decoded. `files` are all the files it is made of."""

    classes: tuple[str, ...]
    train: Encoded
    test: Encoded
    files: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Raw:
    """A decoded data set before the validation split is taken. This is what the cache holds."""

    train: Images
    test: Images
    classes: tuple[str, ...]
    skipped: int


class Decoder:
    """Decodes the splits of one set. The first image decides the colour mode and the size of all."""

    def __init__(self, image_size: int | None, skip_bad: bool):
        self.image_size = image_size
        self.skip_bad = skip_bad
        self.mode = ""
        self.size = (0, 0)  # width, height
        self.first = ""
        self.skipped = 0

    def split(self, encoded: Encoded, what: str) -> Images:
        """Decode one split. `what` names it in errors."""
        count = len(encoded.labels)
        if count == 0:
            raise InputError(f"{what} holds no images. Give a data set with at least one image in each split.")
        buffer = bytearray()
        kept: list[int] = []
        reason = ""
        for i, (where, source) in enumerate(encoded.images()):
            try:
                image = self._open(source)
            except bad_image_errors() as error:
                reason = self._refuse(where, error)
                continue
            data = self._fit(image, where).tobytes()
            buffer = buffer or _allocate(count, len(data), what)
            buffer[len(kept) * len(data) : (len(kept) + 1) * len(data)] = data
            kept.append(encoded.labels[i])
        if not kept:
            raise InputError(f"none of the {count} images of {what} can be decoded; the last: {reason}")
        return Images(self._tensor(buffer, len(kept)), torch.tensor(kept, dtype=torch.int64))

    def _open(self, source: bytes | Path | None) -> Image:
        from PIL import Image, ImageOps

        if source is None:
            raise ValueError("the image is missing (null)")
        with Image.open(source if isinstance(source, Path) else io.BytesIO(source)) as opened:
            opened.load()
            image = ImageOps.exif_transpose(opened) if "exif" in opened.info else opened
            return to_mode(image, self.mode or natural_mode(image))

    def _refuse(self, where: str, error: Exception) -> str:
        reason = f"{where}: {type(error).__name__}: {error}"
        if not self.skip_bad:
            raise InputError(
                f"cannot decode {reason}. Repair or remove it, or leave such images out with --skip-bad."
            ) from error
        log.log(
            logging.DEBUG if self.skipped else logging.WARNING, "left out an image that cannot be decoded: %s", reason
        )
        self.skipped += 1
        return reason

    def _fit(self, image: Image, where: str) -> Image:
        if self.image_size is not None:
            image = resize_and_crop(image, self.image_size)
        if not self.first:
            self.first, self.mode, self.size = where, image.mode, image.size
        if image.size != self.size:
            raise InputError(
                f"{where} has {image.size[0]}x{image.size[1]} pixels, but {self.first} has "
                f"{self.size[0]}x{self.size[1]}. All images must have one size: pass --image-size N to resize them."
            )
        return image

    def _tensor(self, buffer: bytearray, count: int) -> Tensor:
        channels, (width, height) = _CHANNELS[self.mode], self.size
        flat = torch.frombuffer(buffer, dtype=torch.uint8)[: count * height * width * channels]
        return flat.view(count, height, width, channels).permute(0, 3, 1, 2).contiguous()


def decode(source: Source, name: str, image_size: int | None, skip_bad: bool) -> Raw:
    """Decode both splits; the training split comes first and so decides mode and size."""
    decoder = Decoder(image_size, skip_bad)
    train = decoder.split(source.train, f"the training split of {name}")
    test = decoder.split(source.test, f"the test split of {name}")
    if decoder.skipped:
        total = len(source.train.labels) + len(source.test.labels)
        log.warning("%s: left out %d of %d images that cannot be decoded", name, decoder.skipped, total)
    return Raw(train, test, source.classes, decoder.skipped)


def natural_mode(image: Image) -> str:
    """ "L" for pictures that hold greys only by their format, else "RGB"."""
    if image.mode == "P":
        palette = image.getpalette("RGB") or []
        return "L" if palette[0::3] == palette[1::3] == palette[2::3] else "RGB"
    return "L" if image.mode in _GREY_MODES or image.mode.startswith("I;16") else "RGB"


def to_mode(image: Image, mode: str) -> Image:
    """Convert to "L" or "RGB".

    16-bit greys keep their upper byte; transparent pixels are laid on white, as viewers show them.
    """
    from PIL import Image as factory

    if image.mode == mode and "transparency" not in image.info:
        return image
    if image.mode == "F":
        raise ValueError("floating-point pixels have no fixed range; store the image with 8 or 16 bits")
    if image.mode.startswith("I"):
        image = image.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    elif image.mode in ("LA", "RGBA", "PA", "La", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = factory.alpha_composite(factory.new("RGBA", layer.size, (_WHITE,) * 4), layer)
    return image if image.mode == mode else image.convert(mode)


def resize_and_crop(image: Image, size: int) -> Image:
    """Scale the shorter side to `size` (bilinear), then cut the central `size` x `size` square."""
    from PIL.Image import Resampling

    if image.size == (size, size):
        return image
    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    return image.resize((width, height), Resampling.BILINEAR).crop((left, top, left + size, top + size))


def bad_image_errors() -> tuple[type[Exception], ...]:
    """What Pillow raises for a file that is no image, or a damaged one."""
    from PIL.Image import DecompressionBombError

    return (*_DAMAGED, DecompressionBombError)


def _allocate(count: int, each: int, what: str) -> bytearray:
    try:
        return bytearray(count * each)
    except MemoryError as error:
        need = count * each / 2**30
        raise InputError(
            f"{what} needs {need:.1f} GiB of memory for {count} images. Pass a smaller --image-size, or fewer images."
        ) from error
