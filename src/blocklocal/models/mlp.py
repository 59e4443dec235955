"""Fully connected network: flatten, then linear layers with BatchNorm between, as in the trial of method §2."""

import math
from collections import OrderedDict

from torch import nn

from blocklocal._common.errors import InputError
from blocklocal._common.ranges import check_range, whole
from blocklocal.models.base import MODELS, ChainModel, Shape

DEPTH = whole(1, 10_000)  # hidden layers


class MLP(ChainModel):
    """[B, *input_shape] -> [B, classes], through `depth` hidden layers of `width` rectified units.

    Its pieces are `hidden1` (flatten, linear, norm), `hidden2` (ReLU, linear, norm), ..., `head` (ReLU, linear).
    """

    def __init__(self, classes: int, input_shape: Shape, width: int = 512, depth: int = 3, norm: bool = True):
        super().__init__()
        self.input_shape = input_shape
        features = math.prod(input_shape)
        for layer in range(1, depth + 1):
            self.add_module(f"hidden{layer}", _hidden(features, width, norm, first=layer == 1))
            features = width
        self.head = nn.Sequential(OrderedDict[str, nn.Module](relu=nn.ReLU(), linear=nn.Linear(features, classes)))


def _hidden(features: int, width: int, norm: bool, first: bool) -> nn.Sequential:
    start = OrderedDict[str, nn.Module](flatten=nn.Flatten()) if first else OrderedDict(relu=nn.ReLU())
    start["linear"] = nn.Linear(features, width, bias=not norm)  # BatchNorm has its own shift
    if norm:
        start["norm"] = nn.BatchNorm1d(width)
    return nn.Sequential(start)


def _build(classes: int, input_shape: Shape, width: int = 512, depth: int = 3, norm: bool = True) -> nn.Module:
    check_range("depth", depth, DEPTH)
    if not isinstance(norm, bool):
        raise InputError(f"norm must be True or False, not {norm!r}.")
    return MLP(classes, input_shape, width, depth, norm)


MODELS.add("mlp", _build, "dense layers with ReLU (width, depth)")
