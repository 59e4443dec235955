"""What a trained run says of image files."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from blocklocal.data.decode import bad_image_errors, resize_and_crop, to_mode
from blocklocal.errors import InputError
from blocklocal.network import Prediction
from blocklocal.training.build import Facts, normalise
from blocklocal.training.run import block_names, load_network


def predict_files(
    run: Path,
    images: Sequence[Path],
    resize: bool = False,
    checkpoint: str | None = None,
    device: str = "auto",
    *,
    trust: bool = False,
) -> Iterator[str]:
    """Lines of text, a few per image: class and confidence of the output, of every block, and of all together."""
    if not images:
        raise InputError("predict needs at least one image file after the run folder.")
    _, facts, network = load_network(run, checkpoint, device, trust=trust)
    pixels = torch.stack([open_pixels(path, facts, resize) for path in images])
    prediction = network.predict(normalise(pixels, facts).to(next(network.parameters()).device))
    names = block_names(network)
    for i, path in enumerate(images):
        yield f"{path}: {said(prediction, i, facts)}"
        for name, block in zip(names, prediction.blocks, strict=True):
            if block is not None and len(names) > 1:
                yield f"    {name:32} {said(block, i, facts)}"
        if prediction.combined is not None:
            yield f"    {'all blocks together':32} {said(prediction.combined, i, facts)}"


def said(prediction: Prediction, i: int, facts: Facts) -> str:
    """`shirt  87.3 %`."""
    return f"{facts.classes[int(prediction.label[i])]}  {100 * prediction.confidence[i].item():.1f} %"


def open_pixels(path: Path, facts: Facts, resize: bool) -> Tensor:
    """uint8 [C, H, W] of an image file in the model's colours; InputError if it is unreadable or of another size."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as opened:
            image = to_mode(ImageOps.exif_transpose(opened), "L" if facts.channels == 1 else "RGB")
    except FileNotFoundError as error:
        raise InputError(f"there is no image {path}.") from error
    except bad_image_errors() as error:
        raise InputError(f"{path} cannot be decoded as an image ({type(error).__name__}: {error}).") from error
    if resize and facts.height == facts.width:
        image = resize_and_crop(image, facts.height)
    if image.size != (facts.width, facts.height):
        raise InputError(
            f"{path} has {image.size[0]}x{image.size[1]} pixels, the model takes {facts.width}x{facts.height}: "
            "give --resize to scale and crop it."
        )
    flat = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return flat.view(facts.height, facts.width, facts.channels).permute(2, 0, 1)
