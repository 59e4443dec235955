"""What a trained run says of image files."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from blocklocal._common.errors import InputError
from blocklocal._common.extras import needs
from blocklocal._common.screen import printable
from blocklocal.data.picture import BadImage, open_picture, resize_and_crop, to_array, to_mode
from blocklocal.network.network import BlockLocal, Prediction
from blocklocal.runs.build import DatasetInfo, normalise
from blocklocal.runs.run import block_names, load_network
from blocklocal.streaming.streamed import Streamed

BATCH_PIXELS = 2**17  # of a batch, so that memory does not grow with the number or the size of the images
MOST_IMAGES = 100  # of a batch


@needs("data")
def predict_files(
    run: Path,
    images: Sequence[Path],
    resize: bool = False,
    checkpoint: str | None = None,
    device: str = "auto",
    *,
    trust: bool = False,
    visit: int | None = None,
) -> Iterator[str]:
    """Lines of text, a few per image: class and confidence of the output, of every block, and of the ensemble.

    They come batch by batch.

    Raises:
        InputError: the network predicts no numbers, or an image cannot be used; the lines of all before it come first.
    """
    if not images:
        raise InputError("predict needs at least one image file after the run folder.")
    _, facts, network = load_network(run, checkpoint, device, trust=trust, visit=visit)
    for paths, pixels, trouble in _batches(images, facts, resize):
        if paths:
            yield from _lines(run, network, facts, paths, pixels)
        if trouble is not None:
            raise trouble


def _batches(
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


def _lines(
    run: Path, network: BlockLocal | Streamed, facts: DatasetInfo, paths: list[Path], pixels: list[Tensor]
) -> Iterator[str]:
    prediction = network.predict(normalise(torch.stack(pixels), facts).to(network.device))
    _check_numbers(prediction, run)
    names = block_names(network)
    for i, path in enumerate(paths):
        yield f"{printable(path, lines=False)}: {describe_prediction(prediction, i, facts)}"
        for name, block in zip(names, prediction.blocks, strict=True):
            if block is not None and len(names) > 1:
                yield f"    {name:32} {describe_prediction(block, i, facts)}"
        if prediction.combined is not None:
            yield f"    {'ensemble':32} {describe_prediction(prediction.combined, i, facts)}"


def _check_numbers(prediction: Prediction, run: Path) -> None:
    every = [prediction, *prediction.blocks, prediction.combined]
    if not all(bool(each.probabilities.isfinite().all()) for each in every if each is not None):
        raise InputError(
            f"the network of {run} predicts probabilities that are no numbers: its weights are damaged, or its "
            "training diverged. Give an older --checkpoint, or train it again (with a smaller --lr)."
        )


def describe_prediction(prediction: Prediction, i: int, facts: DatasetInfo) -> str:
    """`shirt  87.3 %`."""
    return f"{facts.classes[int(prediction.label[i])]}  {100 * prediction.confidence[i].item():.1f} %"


def open_pixels(path: Path, facts: DatasetInfo, resize: bool) -> Tensor:
    """uint8 [C, H, W] of an image file in the model's colours.

    Raises:
        InputError: it is unreadable or of another size.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder: give its image files, such as {path / '*.png'}.")
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
