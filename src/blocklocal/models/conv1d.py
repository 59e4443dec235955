"""A small convolutional network for series [C, T]: convolutions over time with BatchNorm, halving T as it goes.

An image is read as a series too: its pixels, row by row.
"""

from collections import OrderedDict

from torch import Tensor, nn

from blocklocal._common.errors import InputError
from blocklocal._common.ranges import check_range, whole
from blocklocal.models.base import MODELS, RANKS, ChainModel, Shape

DEPTH = whole(1, 100)  # convolutions
KERNEL = whole(1, 10_001)


class MeanOverTime(nn.Module):
    """[B, C, T] -> [B, C]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(-1)


class Conv1d(ChainModel):
    """[B, C, T] -> [B, classes], through `depth` convolutions; every second one halves T and doubles the channels.

    Its pieces are `conv1` (flatten, convolution, norm), `conv2` (ReLU, convolution, norm), …, `head` (ReLU, mean over
    time, linear).
    """

    def __init__(self, classes: int, input_shape: Shape, width: int = 32, depth: int = 4, kernel: int = 7):
        super().__init__()
        self.input_shape = input_shape
        channels, out = input_shape[0], width
        for layer in range(1, depth + 1):
            halve = layer > 1 and layer % 2 == 1
            out = 2 * out if halve else out
            self.add_module(f"conv{layer}", _convolution(channels, out, kernel, 2 if halve else 1, first=layer == 1))
            channels = out
        head = OrderedDict[str, nn.Module](relu=nn.ReLU(), mean=MeanOverTime(), linear=nn.Linear(channels, classes))
        self.head = nn.Sequential(head)


def _convolution(channels: int, out: int, kernel: int, stride: int, first: bool) -> nn.Sequential:
    start = OrderedDict[str, nn.Module](flatten=nn.Flatten(2)) if first else OrderedDict[str, nn.Module](relu=nn.ReLU())
    start["conv"] = nn.Conv1d(channels, out, kernel, stride, kernel // 2, bias=False)  # BatchNorm has its own shift
    start["norm"] = nn.BatchNorm1d(out)
    return nn.Sequential(start)


def _build(classes: int, input_shape: Shape, width: int = 32, depth: int = 4, kernel: int = 7) -> nn.Module:
    check_range("depth", depth, DEPTH)
    check_range("kernel", kernel, KERNEL)
    if kernel % 2 == 0:
        raise InputError(f"kernel must be odd, so that it has a middle, not {kernel}.")
    return Conv1d(classes, input_shape, width, depth, kernel)


MODELS.add("conv1d", _build, "convolutions over time, for series (width, depth, kernel)")
RANKS["conv1d"] = (2, 3)
