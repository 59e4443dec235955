"""The architecture of a block reversed: what the paper's ResNet twin is made of (§4.1).

Linear and convolution layers swap their inputs and outputs, pooling and strides become upsampling, BatchNorm becomes
GroupNorm (a twin sees one sample per class, so batch statistics would be class frequencies), a residual block becomes a
residual block. A module that holds anything else is replaced by one layer between the same two shapes. A new kind of
layer is one function registered on `mirror_layer`.
"""

import math
from collections.abc import Sequence
from functools import singledispatch
from itertools import pairwise

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from blocklocal.block.shapes import output_shapes

Shape = torch.Size  # of one sample, without the batch dimension


class Resize(nn.Module):
    """Brings a message [R, …] to the shape [R, *shape]: nearest upsampling or area pooling of maps, else a reshape."""

    def __init__(self, shape: Sequence[int]):
        super().__init__()
        self.shape = torch.Size(shape)

    def forward(self, b: Tensor) -> Tensor:
        if b.shape[1:] == self.shape:
            return b
        if b.dim() == 4 and len(self.shape) == 3:
            size = list(self.shape[1:])
            larger = size[0] >= b.shape[2] and size[1] >= b.shape[3]
            return F.interpolate(b, size=size, mode="nearest" if larger else "area")
        if b[0].numel() == self.shape.numel():
            return b.reshape(-1, *self.shape)
        vector = b.unsqueeze(1) if len(self.shape) == 2 else b.reshape(len(b), -1, *(1 for _ in self.shape[1:]))
        return vector.expand(-1, *self.shape)  # one vector for all positions


class ReversedUnit(nn.Module):
    """A residual block reversed: `out` → `given` channels through the block's own kernels, in the opposite order."""

    def __init__(self, convolutions: Sequence[nn.Conv2d], given: Shape, out: Shape):
        super().__init__()
        layers: list[nn.Module] = []
        for conv in reversed(convolutions):
            kernel = conv.kernel_size[0] | 1  # odd, so that the size stays
            layers += [nn.ReLU(), nn.Conv2d(conv.out_channels, conv.in_channels, kernel, 1, kernel // 2, bias=False)]
            layers += [group_norm(conv.in_channels)]
        self.grow = Resize([out[0], *given[1:]])
        self.branch = nn.Sequential(*layers)
        self.skip = nn.Identity() if given[0] == out[0] else nn.Conv2d(out[0], given[0], 1, bias=False)

    def forward(self, b: Tensor) -> Tensor:
        b = self.grow(b)
        return self.branch(b) + self.skip(b)


def group_norm(channels: int) -> nn.GroupNorm:
    """Up to 8 groups, of about 8 channels or more.

    A message is often constant over a map, and a norm over a group of one channel would wipe it out.
    """
    return nn.GroupNorm(math.gcd(channels, min(8, max(1, channels // 8))), channels)


@singledispatch
def mirror_layer(layer: nn.Module, given: Shape, out: Shape) -> nn.Module:
    """The reverse of a layer that maps one sample of shape `given` to `out`: a module from [R, *out] to [R, *given]."""
    own = [child for child in layer.children() if isinstance(child, nn.Conv2d)]
    chained = all(a.out_channels == b.in_channels for a, b in pairwise(own))
    if (
        own
        and chained
        and len(given) == len(out) == 3
        and (own[0].in_channels, own[-1].out_channels) == (given[0], out[0])
    ):
        return ReversedUnit(own, given, out)
    if not any(True for _ in layer.parameters()):
        return Resize(given)
    return _plain(given, out)


def _plain(given: Shape, out: Shape) -> nn.Module:
    if len(given) == len(out) == 3:
        return nn.Sequential(Resize([out[0], *given[1:]]), nn.Conv2d(out[0], given[0], 3, 1, 1))
    if len(given) == len(out) == 2 and given[0] == out[0]:
        return nn.Linear(out[-1], given[-1])
    return nn.Sequential(nn.Flatten(), nn.Linear(out.numel(), given.numel()), Resize(given))


@mirror_layer.register
def _(layer: nn.Linear, given: Shape, out: Shape) -> nn.Module:
    return nn.Linear(layer.out_features, layer.in_features)


@mirror_layer.register
def _(layer: nn.Conv2d, given: Shape, out: Shape) -> nn.Module:
    kernel = layer.kernel_size[0] | 1  # odd, so that the size stays
    conv = nn.Conv2d(layer.out_channels, layer.in_channels, kernel, 1, kernel // 2)
    return nn.Sequential(Resize([out[0], *given[1:]]), conv)


@mirror_layer.register(nn.BatchNorm1d)
@mirror_layer.register(nn.BatchNorm2d)
def _(layer: nn.Module, given: Shape, out: Shape) -> nn.Module:
    return group_norm(given[0]) if len(given) == 3 else nn.Identity()


@mirror_layer.register(nn.ReLU)
@mirror_layer.register(nn.GELU)
@mirror_layer.register(nn.Tanh)
@mirror_layer.register(nn.SiLU)
@mirror_layer.register(nn.LeakyReLU)
def _(layer: nn.Module, given: Shape, out: Shape) -> nn.Module:
    return type(layer)()


@mirror_layer.register
def _(layer: nn.Sequential, given: Shape, out: Shape) -> nn.Module:
    return nn.Sequential(*reversed([mirror_layer(part, *shapes) for part, shapes in _walk(list(layer), given)]))


def _walk(layers: Sequence[nn.Module], given: Shape) -> list[tuple[nn.Module, tuple[Shape, Shape]]]:
    """Every part of a chain with the shapes of one sample before and after it."""
    first = next((p for part in layers for p in part.parameters()), torch.empty(0))
    after = [shape[1:] for shape in output_shapes(layers, torch.zeros(1, *given, device=first.device))]
    return list(zip(layers, pairwise([given, *after]), strict=True))


def mirror_block(block: nn.Module, *, given: Shape, latent: Shape, behind: Shape) -> nn.Module:
    """A block's twin: from the message behind it ([R, *behind]) to the one in front of it ([R, *latent]).

    Args:
        given: the block's own input shape for one sample.
        latent: where the message in front lives: `given`, or the shape of a readout.
    """
    ((_, (_, out)),) = _walk([block], given)
    return nn.Sequential(_between(behind, out), mirror_layer(block, given, out), _between(given, latent))


def _between(shape: Shape, wanted: Shape) -> nn.Module:
    """From [R, *shape] to [R, *wanted], with a linear map where the units differ: of the channels alone for maps."""
    if len(shape) == len(wanted) and shape[0] == wanted[0]:
        return Resize(wanted)
    if len(shape) == len(wanted) == 3:
        return nn.Sequential(nn.Conv2d(shape[0], wanted[0], 1), Resize(wanted))
    return nn.Sequential(nn.Flatten(), nn.Linear(shape.numel(), wanted.numel()), Resize(wanted))
