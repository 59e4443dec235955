"""scikit-learn's digits: 1,797 real 8x8 images of handwritten digits that need no download."""

from __future__ import annotations

from typing import Any

import torch

from blocklocal._common.limits import check_memory
from blocklocal.data.decode import Raw, Told
from blocklocal.data.images import Images
from blocklocal.data.picture import resize_and_crop
from blocklocal.data.splits import stratified
from blocklocal.data.stacks import COPIES, SMALLER

_MAX_VALUE = 16  # the set's own grey scale is 0..16
_LEVELS = 255


def read_digits(image_size: int | None = None) -> Raw:
    """The set with its fixed, stratified fifth as the test split; values 0..16 become 0..255."""
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    pixels = (torch.from_numpy(bunch.images) * (_LEVELS / _MAX_VALUE)).round().to(torch.uint8).unsqueeze(1)
    images = Images(_resized(pixels, image_size), torch.from_numpy(bunch.target).to(torch.int64))
    train, test = stratified(images.labels.tolist())
    classes = tuple(str(name) for name in bunch.target_names)
    origin = "scikit-learn's digits"
    told = {"train": Told(origin), "test": Told(f"{origin} (a fixed fifth of every class)")}
    return Raw(images.subset(train), images.subset(test), classes, skipped=0, told=told)


def _resized(pixels: torch.Tensor, size: int | None) -> torch.Tensor:
    if size is None:
        return pixels
    from PIL import Image

    check_memory(f"{len(pixels):,} digits of {size}x{size} pixels", COPIES * len(pixels) * size * size, SMALLER)
    height, width = pixels.shape[2:]
    data = b"".join(
        resize_and_crop(Image.frombytes("L", (width, height), bytes(image.flatten().tolist())), (size, size)).tobytes()
        for image in pixels
    )
    return torch.frombuffer(bytearray(data), dtype=torch.uint8).view(len(pixels), 1, size, size)
