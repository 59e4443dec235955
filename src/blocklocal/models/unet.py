"""A U-Net (Ronneberger et al. 2015, arXiv 1505.04597) for a class per pixel, cut anywhere: skips are carried along.

What a skip connection carries lies beside the hidden tensor in the message (`Message.beside`), until it is read.
Unlike theirs, convolutions are padded, so that there is an answer for every pixel, and followed by BatchNorm; the way
up is a nearest-pixel enlargement.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blocklocal._common.message import Forward, Message
from blocklocal._common.ranges import check_range, whole
from blocklocal.models.base import MODELS, ChainModel, Shape, check_smallest

_DEEPEST = 8


def _layers(given: int, made: int) -> nn.Sequential:
    first = (nn.Conv2d(given, made, 3, padding=1, bias=False), nn.BatchNorm2d(made), nn.ReLU())
    return nn.Sequential(*first, nn.Conv2d(made, made, 3, padding=1, bias=False), nn.BatchNorm2d(made))


class Down(nn.Module):
    """Halves the maps; puts those that came beside the hidden tensor, as `skip`."""

    def __init__(self, given: int, made: int, skip: str):
        super().__init__()
        self.skip, self.layers = skip, _layers(given, made)

    def forward(self, given: Forward) -> Message:
        hidden, beside = (given.hidden, given.beside) if isinstance(given, Message) else (given, {})
        return Message(self.layers(F.max_pool2d(hidden.relu(), 2)), {**beside, self.skip: hidden})


class Up(nn.Module):
    """Enlarges the maps to those of `skip`, and reads both. The last one has a head, which gives the logits."""

    def __init__(self, given: int, made: int, skip: str, head: nn.Module | None = None):
        super().__init__()
        self.skip, self.layers, self.head = skip, _layers(given + made, made), head

    def forward(self, given: Message) -> Forward:
        skip = given.beside[self.skip]
        wide = F.interpolate(given.hidden.relu(), size=skip.shape[2:])
        hidden = self.layers(torch.cat([wide, skip.relu()], 1))
        if self.head is not None:
            return self.head(hidden)
        return Message(hidden, {name: t for name, t in given.beside.items() if name != self.skip})


class UNet(ChainModel):
    """[B, C, H, W] -> [B, classes, H, W]. Pieces `stem`, `down1` …, … `up1`; all but the first begin with ReLU."""

    def __init__(self, classes: int, input_shape: Shape, width: int = 32, depth: int = 3):
        super().__init__()
        self.input_shape = input_shape
        sizes = [width * 2**level for level in range(depth + 1)]
        self.stem = _layers(input_shape[0], width)
        for level in range(1, depth + 1):
            self.add_module(f"down{level}", Down(sizes[level - 1], sizes[level], f"skip{level}"))
        for level in range(depth, 0, -1):
            head = nn.Sequential(nn.ReLU(), nn.Conv2d(width, classes, 1)) if level == 1 else None
            self.add_module(f"up{level}", Up(sizes[level], sizes[level - 1], f"skip{level}", head))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


def _build(classes: int, input_shape: Shape, width: int = 32, depth: int = 3) -> nn.Module:
    check_range("depth", depth, whole(1, _DEEPEST))
    check_smallest("unet", input_shape, 2**depth, "enlarge the images, or give a smaller depth (--model-options).")
    return UNet(classes, input_shape, width, depth)


MODELS.add("unet", _build, "U-Net for a class per pixel (Ronneberger et al. 2015)")
