"""Fully connected network: flatten, then linear layers with BatchNorm between, as in the trial of method §2."""

import math
from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from blocklocal._common.errors import InputError
from blocklocal._common.ranges import check_range, whole
from blocklocal.models.base import MODELS, RANKS, ChainModel, Shape
from blocklocal.models.embedded import Embedded

DEPTH = whole(1, 10_000)  # hidden layers


class MLP(ChainModel):
    """[B, *input_shape] -> [B, classes], through `depth` hidden layers of `width` rectified units.

    Its pieces are `hidden1` (flatten, linear, norm), `hidden2` (ReLU, linear, norm), ..., `head` (ReLU, linear).

    Args:
        classes: number of outputs.
        input_shape: of one sample.
        categories: for rows of a table, whose last columns are codes: how many codes each has. They are embedded, by
            the first piece, in the place of its flatten.
    """

    def __init__(
        self,
        classes: int,
        input_shape: Shape,
        width: int = 512,
        depth: int = 3,
        norm: bool = True,
        categories: Sequence[int] = (),
    ):
        super().__init__()
        self.input_shape = input_shape
        features, start = math.prod(input_shape), nn.Flatten()
        if categories:
            start = Embedded(categories)
            features += start.width - len(categories)
        for layer in range(1, depth + 1):
            self.add_module(f"hidden{layer}", _hidden(features, width, norm, start if layer == 1 else None))
            features = width
        self.head = nn.Sequential(OrderedDict[str, nn.Module](relu=nn.ReLU(), linear=nn.Linear(features, classes)))


def _hidden(features: int, width: int, norm: bool, first: nn.Module | None) -> nn.Sequential:
    name = "relu" if first is None else "flatten" if isinstance(first, nn.Flatten) else "embed"
    start = OrderedDict[str, nn.Module]({name: first or nn.ReLU()})
    start["linear"] = nn.Linear(features, width, bias=not norm)  # BatchNorm has its own shift
    if norm:
        start["norm"] = nn.BatchNorm1d(width)
    return nn.Sequential(start)


def _build(
    classes: int,
    input_shape: Shape,
    width: int = 512,
    depth: int = 3,
    norm: bool = True,
    categories: Sequence[int] = (),
) -> nn.Module:
    check_range("depth", depth, DEPTH)
    if not isinstance(norm, bool):
        raise InputError(f"norm must be True or False, not {norm!r}.")
    if not isinstance(categories, tuple | list) or not all(isinstance(size, int) and size > 0 for size in categories):
        raise InputError(
            f"categories must be a list of whole numbers above 0, one per column of codes, not {categories!r}."
        )
    if categories and (len(input_shape) != 1 or len(categories) > input_shape[0]):
        raise InputError(f"{len(categories)} columns of codes do not fit samples of the shape {list(input_shape)}.")
    return MLP(classes, input_shape, width, depth, norm, categories)


MODELS.add("mlp", _build, "dense layers with ReLU (width, depth)")
RANKS["mlp"] = (1, 2, 3)
