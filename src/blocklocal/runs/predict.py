"""What a trained run says of image files."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from blocklocal._common.errors import InputError
from blocklocal._common.extras import needs
from blocklocal._common.screen import printable
from blocklocal.data.picture import BadImage, open_picture, resize_and_crop, to_array, to_mode
from blocklocal.data.scan import SUFFIXES, LeftOut, list_images
from blocklocal.runs.asking import Asking
from blocklocal.runs.facts import DatasetInfo
from blocklocal.runs.looking import load_network
from blocklocal.runs.said import Said, check_numbers
from blocklocal.runs.sets import normalise
from blocklocal.runs.train import block_names

BATCH_PIXELS = 2**17  # of a batch, so that memory does not grow with the number or the size of the images
MOST_IMAGES = 100  # of a batch


@needs("data")
def predict_each(
    run: Path,
    images: Sequence[Path],
    resize: bool = False,
    checkpoint: str | None = None,
    device: str = "auto",
    *,
    trust: bool = False,
    visit: int | None = None,
    how: Asking | None = None,
) -> Iterator[Said]:
    """What the output, every block and the ensemble say of each image. They come batch by batch.

    Args:
        images: files, and folders of which all images are taken.
        how: what else is asked.

    Raises:
        InputError: the network predicts no numbers, or an image cannot be used; what is said of all before it comes
            first.
    """
    if not images:
        raise InputError("predict needs at least one image file, or folder of images, after the run folder.")
    files = image_files(images)
    _, facts, network = load_network(run, checkpoint, device, trust=trust, visit=visit)
    names, how = block_names(network), how or Asking()
    for paths, pixels, trouble in image_batches(files, facts, resize):
        if paths:
            prediction = how.predict(network, normalise(torch.stack(pixels), facts).to(network.device))
            check_numbers(prediction, run)
            for i, path in enumerate(paths):
                yield Said("file", printable(path, lines=False), prediction, i, facts, names, how)
        if trouble is not None:
            raise trouble


def image_files(given: Sequence[Path]) -> list[Path]:
    """The files, and all images in the folders and below, by their suffixes.

    Raises:
        InputError: there is no image in a folder.
    """
    found: list[Path] = []
    for path in given:
        inside = list_images(path, LeftOut()) if path.is_dir() else [path]
        if not inside:
            raise InputError(f"the folder {path} holds no images ({', '.join(SUFFIXES)}): give another one, or files.")
        found += inside
    return found


def image_batches(
    images: Sequence[Path], facts: DatasetInfo, resize: bool
) -> Iterator[tuple[list[Path], list[Tensor], InputError | None]]:
    """(files, their pixels, what is wrong with the file after them); the batch with an error is the last."""
    size = max(1, min(MOST_IMAGES, BATCH_PIXELS // (facts.height * facts.width)))
    for start in range(0, len(images), size):
        paths, pixels = [], []
        for path in images[start : start + size]:
            try:
                pixels.append(open_pixels(path, facts, resize))
            except InputError as error:
                yield paths, pixels, error
                return
            paths.append(path)
        yield paths, pixels, None


def open_pixels(path: Path, facts: DatasetInfo, resize: bool) -> Tensor:
    """uint8 [C, H, W] of an image file in the model's colours.

    Raises:
        InputError: it is unreadable or of another size.
    """
    try:
        image = to_mode(open_picture(path).image, "L" if facts.channels == 1 else "RGB")
        if resize:
            image = resize_and_crop(image, (facts.width, facts.height))
    except BadImage as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise InputError(f"there is no image {path}.") from error
        raise InputError(f"{path} cannot be decoded as an image ({error}).") from error
    if image.size != (facts.width, facts.height):
        raise InputError(
            f"{path} has {image.size[0]}x{image.size[1]} pixels, the model takes {facts.width}x{facts.height}: "
            "give --resize to scale and crop it."
        )
    return torch.from_numpy(to_array(image).copy())
