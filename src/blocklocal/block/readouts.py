"""Readouts h_k: a small network between a block's output a_k and the latent on which messages are matched (method §3).

A readout stands for what the rest of the network makes of a_k: the less of that it can do, the more of the answer the
block itself must give, and the less it keeps for later blocks (`experiments/accuracy`). It is trained by the block's
own loss, is not on the forward path, and its weights are its own.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from blocklocal._common.message import Forward, Message, hidden_of
from blocklocal._common.torch_calls import tensors_in
from blocklocal.block.shapes import is_map, output_shapes, units_of
from blocklocal.splitting.chains import flat_layers
from blocklocal.splitting.copying import copy_module
from blocklocal.splitting.layers import is_weighted

WIDEST = 512  # channels of a map readout at most: a wide network's readout must not outgrow the network


def readout(
    shape: torch.Size, layers: int, reader: nn.Module | None = None, line: bool = False, keep: bool = False
) -> nn.Module:
    """A readout for outputs of `shape` [B, …]; it ends before its last nonlinearity.

    Maps [B, C, H, W], volumes [B, C, D, H, W] and lines [B, C, L, 1] get pairs of convolutions, see `_map_readout`.
    Flat outputs [B, D] get dense layers as wide, with BatchNorm. Sequences [B, T, D] get layers that start as copies of
    `reader`, because no dense layer sees other positions, and a LayerNorm; where there is no reader, dense layers with
    LayerNorm.

    Args:
        reader: a layer of the next block (see `reading_layer`).
        line: maps are lines, one pixel wide.
        keep: maps keep their resolution and channels, because every pixel has a target.
    """
    if is_map(shape):
        side = 1 if keep else shape[2] if line else min(shape[2:])
        return _map_readout(units_of(shape), side, layers, space_of(shape, line))
    if len(shape) == 3 and reader is not None:
        copies = [copy_module(reader).requires_grad_() for _ in range(layers)]
        return nn.Sequential(*copies, nn.LayerNorm(units_of(shape)))
    width = units_of(shape)
    parts: list[nn.Module] = []
    for layer in range(layers):
        parts += [nn.ReLU()] if layer else []
        if len(shape) == 2:
            parts += [nn.Linear(width, width, bias=False), nn.BatchNorm1d(width)]
        else:
            parts += [nn.Linear(width, width), nn.LayerNorm(width)]
    return nn.Sequential(*parts)


@dataclass(frozen=True)
class Space:
    """The layers of maps: of the plane, of a line (maps one pixel wide), or of a volume."""

    convolution: Callable[..., nn.Module] = nn.Conv2d
    norm: Callable[[int], nn.Module] = nn.BatchNorm2d
    pool: Callable[..., nn.Module] = nn.AvgPool2d
    line: bool = False

    def conv(self, given: int, made: int, stride: int = 1, bias: bool = True) -> nn.Module:
        """A convolution of width 3 in every direction that there is."""
        if self.line:
            return nn.Conv2d(given, made, (3, 1), (stride, 1), (1, 0), bias=bias)
        return self.convolution(given, made, 3, stride, 1, bias=bias)

    def halved(self) -> nn.Module:
        return self.pool((2, 1) if self.line else 2, ceil_mode=True)


def space_of(shape: torch.Size, line: bool = False) -> Space:
    """The layers for maps [B, C, …]."""
    return Space(line=line) if len(shape) == 4 else Space(nn.Conv3d, nn.BatchNorm3d, nn.AvgPool3d)


def _map_readout(channels: int, side: int, layers: int, space: Space) -> nn.Module:
    """The rest of a convolutional network in small: per layer two 3x3 convolutions with BatchNorm, each behind a ReLU.

    The first of them halves the side and doubles the channels. Average pooling halves the side before them where they
    would leave more than one pixel: a quarter of the cost, and no less accurate (`experiments/accuracy`). At one pixel
    the channels stay as they are, and none goes beyond `WIDEST`.
    """
    parts: list[nn.Module] = []
    if side > 2**layers:
        parts.append(space.halved())
        side = (side + 1) // 2
    for _ in range(layers):
        stride = 2 if side > 1 else 1
        width = min(stride * channels, WIDEST)
        parts += [nn.ReLU(), space.conv(channels, width, stride, bias=False), space.norm(width)]
        parts += [nn.ReLU(), space.conv(width, width, bias=False), space.norm(width)]
        channels, side = width, (side + stride - 1) // stride
    return nn.Sequential(*parts)


@torch.no_grad()
def reading_layer(block: nn.Module, message: Forward) -> nn.Module | None:
    """The first layer with weights of `block` that takes and gives one tensor, of the shape of its message [B, …].

    Of a message of several tensors, a layer that gets another one by name does not count: a copy would lack it.

    Of a traced network a layer is what torch.fx leaves whole: modules of torch.nn, not a user's own.
    """
    found: list[nn.Module] = []
    shape, several = hidden_of(message).shape, isinstance(message, Message)

    def look(layer: nn.Module, given: Sequence[object], named: Mapping[str, object], made: object) -> None:
        if several and any(True for _ in tensors_in(named)):
            return
        shapes = [t.shape if isinstance(t, Tensor) else None for t in (*given, made)]
        if is_weighted(layer) and shapes == [shape, shape]:
            found.append(layer)

    layers = block.modules() if isinstance(block, fx.GraphModule) else (layer for _, layer in flat_layers(block))
    hooks = [layer.register_forward_hook(look, with_kwargs=True) for layer in layers if layer is not block]
    try:
        output_shapes([block], message)
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else None
