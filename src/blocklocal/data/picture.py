"""One encoded image, a file or bytes, as upright 8-bit pixels. Nothing else in the library opens an image.

Training, evaluation and prediction all read images through `open_picture`, so one file always has the same pixels.
"""

from __future__ import annotations

import io
import stat
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from blocklocal._common.ranges import MAX_PIXELS

if TYPE_CHECKING:
    from PIL.Image import Image

_TIFF_BITS = 258  # the tag BitsPerSample
_SIXTEEN_BITS = ("PNG", "PPM")  # formats whose pixels of mode "I" always are 16 bits wide
_GREY_MODES = ("1", "L", "LA", "La", "I")
_WHITE = 255
_ORIENTED = ("exif", "Raw profile type exif", "XML:com.adobe.xmp")  # where Pillow looks for the orientation
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)

FRAMES = "first of several frames taken"
DEEP = "16 bits cut to the upper 8"
DARK = "nothing but black left of 16 bits"
CLEAR = "transparency laid on white"
UNTURNED = "orientation unreadable, shown as stored"


class BadImage(ValueError):
    """An image that cannot be read, or not as it was meant. The message is the reason."""


@dataclass(frozen=True)
class Picture:
    """An upright image of mode "L" or "RGB".

    Attributes:
        changes: what was lost on the way there (see the constants).
    """

    image: Image
    changes: tuple[str, ...] = ()


def open_picture(source: bytes | Path | None) -> Picture:
    """Decode an image, turn it upright and bring it to 8-bit grey or RGB, whichever it is.

    Args:
        source: None where the image is missing.

    Raises:
        BadImage: it is no regular file, no image, damaged, above `MAX_PIXELS`, or of values without a range.
    """
    from PIL import Image

    if source is None:
        raise BadImage("the image is missing (null)")
    if isinstance(source, Path):
        check_regular(source)
    with _reasons(), Image.open(source if isinstance(source, Path) else io.BytesIO(source)) as opened:
        _check_opened(opened)
        frames = opened.format != "MPO" and getattr(opened, "is_animated", False)  # MPO: a photograph and its preview
        deep = opened.mode.startswith("I") or any(";16" in str(tile) for tile in getattr(opened, "tile", ()))
        opened.load()
        image, turned = _upright(opened)
        clear = image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info
        plain = _plain(image, str(opened.format), _bits(opened))
        dark = deep and plain.mode == "RGB" and plain.getbbox() is None
        said = ((frames, FRAMES), (deep, DARK if dark else DEEP), (clear, CLEAR), (not turned, UNTURNED))
        return Picture(plain, tuple(change for happened, change in said if happened))


def check_regular(path: Path) -> None:
    """Raise BadImage for a folder, pipe, socket or device, without opening it, and for a file that is not there."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise BadImage(error.strerror or str(error)) from error
    if not stat.S_ISREG(mode):
        kind = next((name for test, name in _KINDS if test(mode)), "something else")
        raise BadImage(f"it is {kind}, no file")


def to_mode(image: Image, mode: str) -> Image:
    """An image of `open_picture` in "L" or "RGB"."""
    return image if image.mode == mode else image.convert(mode)


def resize_and_crop(image: Image, size: tuple[int, int], *, nearest: bool = False) -> Image:
    """Scale an image (bilinear, or to the `nearest` pixel) until it just covers `size` (width, height), cut the centre.

    Raises:
        BadImage: the scaled image would have more than `MAX_PIXELS`.
    """
    from PIL.Image import Resampling

    if image.size == size:
        return image
    scale = max(want / have for want, have in zip(size, image.size, strict=True))
    width, height = (max(want, round(have * scale)) for want, have in zip(size, image.size, strict=True))
    if width * height > MAX_PIXELS:
        raise BadImage(
            f"{image.size[0]}x{image.size[1]} pixels are scaled to {width}x{height} to cover {size[0]}x{size[1]}, "
            f"more than {MAX_PIXELS:,} pixels"
        )
    left, top = (width - size[0]) // 2, (height - size[1]) // 2
    way = Resampling.NEAREST if nearest else Resampling.BILINEAR
    return image.resize((width, height), way).crop((left, top, left + size[0], top + size[1]))


def to_array(image: Image) -> np.ndarray:
    """uint8 [C, H, W] of an image of mode "L" or "RGB"."""
    array = np.array(image)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


@contextmanager
def _reasons() -> Generator[None, None, None]:
    """Whatever Pillow raises on a file that somebody else made becomes a BadImage."""
    from PIL import UnidentifiedImageError

    try:
        yield
    except (BadImage, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise BadImage("it is no image, or of a format that cannot be read here") from error
    # Pillow has a decoder per format, and damaged files make them raise errors of a dozen types.
    except Exception as error:
        raise BadImage(f"{type(error).__name__}: {error}") from error


def _check_opened(opened: Any) -> None:
    width, height = opened.size
    if width * height > MAX_PIXELS:
        raise BadImage(f"it has {width}x{height} pixels, more than {MAX_PIXELS:,}; make it smaller")
    if min(width, height) < 1:
        raise BadImage(f"it has {width}x{height} pixels")
    if opened.format == "EPS":  # Pillow would run Ghostscript on it
        raise BadImage("it is a PostScript program, no picture; save it as PNG")


def _upright(opened: Any) -> tuple[Image, bool]:
    """The image turned as its orientation tag says, wherever that is kept; and whether the tag could be read."""
    from PIL import ImageOps

    try:
        _gather_orientation(opened.info)
        if not any(name in opened.info for name in _ORIENTED):
            return opened, True  # TIFF: Pillow has turned it
        return ImageOps.exif_transpose(opened), True
    except MemoryError:
        raise
    except Exception:  # damaged beside a sound picture; Pillow raises errors of many types here too
        return opened, False


def _gather_orientation(info: dict[Any, Any]) -> None:
    """Put what ImageMagick and WebP keep elsewhere where Pillow looks for it."""
    for name, wanted, start in (
        ("Raw profile type APP1", "exif", b"Exif"),
        ("Raw profile type APP1", "xmp", b"http://ns.adobe.com/xap"),
        ("Raw profile type xmp", "xmp", b""),
    ):
        if name in info and wanted not in info:
            content = bytes.fromhex("".join(info[name].split("\n")[3:]))  # name, length, then lines of hex digits
            if content.startswith(start):
                info[wanted] = content
    if isinstance(info.get("xmp"), bytes):
        info.setdefault("XML:com.adobe.xmp", info["xmp"].decode("utf-8", "replace"))


def _plain(image: Image, kind: str, bits: int) -> Image:
    """8-bit grey or RGB; transparent pixels are laid on white, as viewers show them."""
    from PIL import Image as factory

    mode = _natural_mode(image)
    if image.mode == mode and "transparency" not in image.info:
        return image
    if image.mode == "F":
        raise BadImage("floating-point pixels have no fixed range; store the image with 8 or 16 bits")
    if image.mode == "I" and kind not in _SIXTEEN_BITS:
        raise BadImage("32-bit pixels have no fixed range; store the image with 8 or 16 bits")
    if image.mode.startswith("I"):
        return _upper_bits(image, bits)
    if image.mode == "La":
        image = image.convert("LA")
    if image.mode in ("LA", "RGBA", "PA", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = factory.alpha_composite(factory.new("RGBA", layer.size, (_WHITE,) * 4), layer)
    return to_mode(image, mode)


def _natural_mode(image: Image) -> str:
    """Mode "L" for pictures that hold greys only by their format, else "RGB"."""
    if image.mode == "P":
        palette = image.getpalette("RGB") or []
        return "L" if palette[0::3] == palette[1::3] == palette[2::3] else "RGB"
    return "L" if image.mode in _GREY_MODES or image.mode.startswith("I;16") else "RGB"


def _bits(opened: Any) -> int:
    """Bits of a grey value wider than 8: 16, but for TIFF files of 12."""
    bits = getattr(opened, "tag_v2", {}).get(_TIFF_BITS, (16,))
    return 12 if tuple(bits) == (12,) else 16


def _upper_bits(image: Image, bits: int) -> Image:
    """The upper 8 of `bits` bits of grey."""
    from PIL import Image as factory

    levels = np.asarray(image.convert("I"))
    upper = (levels >> (bits - 8)).clip(0, _WHITE).astype(np.uint8)
    if levels.any() and not upper.any():
        raise BadImage(f"its {bits}-bit pixels use the lower 8 bits alone and would be black; store it with 8 bits")
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        upper[levels == clear] = _WHITE
    return factory.fromarray(upper)
