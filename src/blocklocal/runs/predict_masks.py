"""Predicted classes of pixels as files: a palette PNG per image, its pixels the numbers of the classes."""

import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from blocklocal._common.errors import InputError
from blocklocal._common.written import check_target, write_file
from blocklocal.runs.predict import image_files
from blocklocal.runs.said import Said


def checked_folder(folder: Path | None, images: Sequence[Path], *, overwrite: bool) -> Path:
    """The folder, into which masks of these images can be written.

    Raises:
        InputError: there is none, two images have one stem, or a mask is there already.
    """
    if folder is None or folder.suffix or folder.is_file():
        raise InputError("this run predicts a class per pixel: give --output FOLDER, for a mask (PNG) per image.")
    seen: dict[str, Path] = {}
    for file in image_files(images):
        if file.stem in seen:
            raise InputError(f"{seen[file.stem]} and {file} would both be {_name(folder, file)}: rename one.")
        seen[file.stem] = file
        if folder.exists():
            check_target(_name(folder, file), overwrite=overwrite)
    return folder


def write_masks(said: Iterable[Said], folder: Path, *, overwrite: bool) -> int:
    """Write a mask per image, in the size that the network reads.

    Returns:
        How many there are.

    Raises:
        InputError: one cannot be written.
    """
    count = 0
    for each in said:
        folder.mkdir(parents=True, exist_ok=True)
        write_file(_name(folder, Path(str(each.name))), _png(each), overwrite=overwrite)
        count += 1
    return count


def _name(folder: Path, image: Path) -> Path:
    return folder / f"{image.stem}.png"


def _png(said: Said) -> bytes:
    from PIL import Image

    image = Image.fromarray(said.prediction.label[said.i].to("cpu", torch.uint8).numpy()).convert("L")
    image.putpalette(_palette())  # makes it mode "P"; the numbers stay
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def _palette() -> list[int]:
    """Red, green and blue of 256 classes, as Pascal VOC has them: neighbours differ, and 0 is black."""
    colours = []
    for number in range(256):
        for channel in range(3):
            bits = (number >> (3 * place + channel) & 1 for place in range(3))
            colours.append(sum(bit << (7 - place) for place, bit in enumerate(bits)))
    return colours
