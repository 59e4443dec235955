"""A few test images with what every block thought of them, for the report."""

import base64
import io
from collections.abc import Callable

import torch
from torch import Tensor

from blocklocal.data import Images, ImageSet
from blocklocal.network.network import BlockLocal
from blocklocal.network.prediction import Prediction
from blocklocal.streaming.streamed import Streamed

LOOK_AT = 500  # test images that examples are chosen from
EACH = 4  # examples of each kind: right and sure, wrong and sure, unsure


def choose_examples(network: BlockLocal | Streamed, data: ImageSet, normalise: Callable[[Tensor], Tensor]) -> dict:
    """{"classes", "examples"}: right and sure, wrong and sure, least sure.

    Args:
        normalise: uint8 → the network's input.
    """
    shown = data.test.subset(slice(0, LOOK_AT))
    images = Images(pixels := shown.read(), shown.labels)
    prediction = network.predict(normalise(pixels))
    confidence, right = prediction.confidence.cpu(), prediction.label.cpu() == images.labels
    by_confidence = confidence.argsort(descending=True)
    sure_right = by_confidence[right[by_confidence]][:EACH]
    sure_wrong = by_confidence[~right[by_confidence]][:EACH]
    unsure = by_confidence[-EACH:].flip(0)
    chosen = list(dict.fromkeys(torch.cat([sure_right, sure_wrong, unsure]).tolist()))
    return {"classes": list(data.classes), "examples": [describe(images, prediction, i) for i in chosen]}


def describe(images: Images, prediction: Prediction, i: int) -> dict:
    """One image as the report shows it: PNG, label, prediction, confidence, and the blocks' opinions."""
    blocks = [
        {"block": k + 1, "predicted": block.label[i].item(), "confidence": block.confidence[i].item()}
        for k, block in enumerate(prediction.blocks)
        if block is not None
    ]
    return {
        "png": png(images.pixels[slice(i, i + 1)][0]),
        "label": images.labels[i].item(),
        "predicted": prediction.label[i].item(),
        "confidence": prediction.confidence[i].item(),
        "blocks": blocks,
    }


def png(pixels: Tensor) -> str:
    """uint8 [C, H, W] (1 or 3 channels) → a base64 PNG."""
    from PIL import Image

    array = pixels.cpu().permute(1, 2, 0).numpy()
    picture = Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()
