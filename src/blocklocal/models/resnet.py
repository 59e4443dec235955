"""Residual networks (He et al. 2016, arXiv 1512.03385) whose pieces begin with the ReLU instead of ending with it.

The function computed is that of the usual network, with the same parameters; only the place where one piece ends and
the next begins has moved, so that what passes between pieces is the value before the ReLU. Max pooling commutes with
ReLU, so the large stem pools before it. The stride of a bottleneck sits on its 3x3 convolution, as in torchvision.
"""

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from blocklocal.models.base import MODELS, Shape, check_choice, check_smallest

# Below this many channels a 1x1 convolution with a stride, channels last, writes beyond its buffers on CPUs without
# AVX-512 (oneDNN in torch 2.13: the process dies). There every second pixel is picked first: the same function.
NARROW = 8


def _conv_norm(inputs: int, outputs: int, kernel: int, stride: int = 1) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return conv, nn.BatchNorm2d(outputs)


class PadShortcut(nn.Module):
    """Skip connection without parameters: every second pixel, new channels zero (He et al., option A)."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.extra, self.stride = outputs - inputs, stride

    def forward(self, h_BCHW: Tensor) -> Tensor:
        return F.pad(h_BCHW[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra))


def _shortcut(inputs: int, outputs: int, stride: int, kind: str) -> nn.Module:
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    if kind == "pad":
        return PadShortcut(inputs, outputs, stride)
    if inputs >= NARROW or stride == 1:
        conv, norm = _conv_norm(inputs, outputs, 1, stride)
        return nn.Sequential(OrderedDict[str, nn.Module](conv=conv, norm=norm))
    conv, norm = _conv_norm(inputs, outputs, 1)
    return nn.Sequential(OrderedDict[str, nn.Module](sample=nn.MaxPool2d(1, stride), conv=conv, norm=norm))


class BasicUnit(nn.Module):
    """ReLU, then two 3x3 convolutions beside a skip: [B, inputs, H, W] -> [B, width, H/stride, W/stride]."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int, shortcut: str):
        super().__init__()
        self.conv1, self.norm1 = _conv_norm(inputs, width, 3, stride)
        self.conv2, self.norm2 = _conv_norm(width, width, 3)
        self.shortcut = _shortcut(inputs, width, stride, shortcut)

    def forward(self, a: Tensor) -> Tensor:
        h = F.relu(a)
        r = F.relu(self.norm1(self.conv1(h)))
        return self.norm2(self.conv2(r)) + self.shortcut(h)


class BottleneckUnit(nn.Module):
    """ReLU, then 1x1, 3x3 and 1x1 convolutions beside a skip connection; the output has 4 x width channels."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int, shortcut: str):
        super().__init__()
        outputs = width * self.expansion
        self.conv1, self.norm1 = _conv_norm(inputs, width, 1)
        self.conv2, self.norm2 = _conv_norm(width, width, 3, stride)
        self.conv3, self.norm3 = _conv_norm(width, outputs, 1)
        self.shortcut = _shortcut(inputs, outputs, stride, shortcut)

    def forward(self, a: Tensor) -> Tensor:
        h = F.relu(a)
        r = F.relu(self.norm1(self.conv1(h)))
        r = F.relu(self.norm2(self.conv2(r)))
        return self.norm3(self.conv3(r)) + self.shortcut(h)


Unit = type[BasicUnit] | type[BottleneckUnit]


class ResNet(nn.Module):
    """[B, C, H, W] -> [B, classes]. Stage s has depths[s] residual blocks of width * 2**s channels.

    The outputs of a bottleneck have four times as many channels. The pieces are `stage1.0` (with the stem), `stage1.1`,
    ..., and the last one with the head (ReLU, pool, flatten, linear).
    """

    def __init__(
        self, classes: int, input_shape: Shape, unit: Unit, depths: Sequence[int], width: int, stem: str, shortcut: str
    ):
        super().__init__()
        self.input_shape = input_shape
        self.stem = _stem(input_shape[0], width, stem)
        self.stage_names = [f"stage{s + 1}" for s in range(len(depths))]
        inputs = width
        for s, (name, depth) in enumerate(zip(self.stage_names, depths, strict=True)):
            stage = nn.Sequential()
            for position in range(depth):
                stride = 2 if s > 0 and position == 0 else 1
                stage.append(unit(inputs, width * 2**s, stride, shortcut))
                inputs = width * 2**s * unit.expansion
            self.add_module(name, stage)
        self.head = nn.Sequential(
            OrderedDict[str, nn.Module](
                relu=nn.ReLU(), pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), linear=nn.Linear(inputs, classes)
            )
        )

    def units(self) -> list[tuple[str, nn.Module]]:
        """The residual blocks; the first also holds the stem and the last the head."""
        stages = [(name, self.get_submodule(name)) for name in self.stage_names]
        units = [(f"{name}.{i}", unit) for name, stage in stages for i, unit in stage.named_children()]
        first, last = units[0], units[-1]
        units[0] = (first[0], nn.Sequential(OrderedDict([("stem", self.stem), ("unit", first[1])])))
        units[-1] = (last[0], nn.Sequential(OrderedDict([("unit", last[1]), ("head", self.head)])))
        return units

    def forward(self, x: Tensor) -> Tensor:
        a = self.stem(x)
        for name in self.stage_names:
            a = self.get_submodule(name)(a)
        return self.head(a)


def _stem(channels: int, width: int, kind: str) -> nn.Sequential:
    kernel, stride = (3, 1) if kind == "small" else (7, 2)
    conv, norm = _conv_norm(channels, width, kernel, stride)
    layers = OrderedDict[str, nn.Module](conv=conv, norm=norm)
    if kind == "large":
        layers["pool"] = nn.MaxPool2d(3, 2, 1)
    return nn.Sequential(layers)


def _build(
    classes: int,
    input_shape: Shape,
    width: int = 64,
    stem: str = "small",
    *,
    name: str,
    unit: Unit,
    depths: Sequence[int],
) -> nn.Module:
    check_choice("stem", stem, ("small", "large"))
    halvings = len(depths) - 1 + (2 if stem == "large" else 0)
    smallest = 2 ** (halvings - 1) + 1  # halving rounds up: one pixel is left after the last, not before
    small_advice = "enlarge the images, or take a model that shrinks them less, such as 'mlp'."
    check_smallest(name, input_shape, smallest, small_advice if stem == "small" else "use stem='small'.")
    return ResNet(classes, input_shape, unit, depths, width, stem, shortcut="projection")


def _build_cifar(classes: int, input_shape: Shape, width: int = 16, *, name: str, depths: Sequence[int]) -> nn.Module:
    check_smallest(name, input_shape, 4, "enlarge the images, or take 'mlp'.")
    return ResNet(classes, input_shape, BasicUnit, depths, width, "small", shortcut="pad")


_IMAGENET: dict[str, tuple[Unit, tuple[int, ...]]] = {
    "resnet18": (BasicUnit, (2, 2, 2, 2)),
    "resnet34": (BasicUnit, (3, 4, 6, 3)),
    "resnet50": (BottleneckUnit, (3, 4, 6, 3)),
}
for _name, (_unit, _depths) in _IMAGENET.items():
    _summary = f"ResNet-{_name[6:]} (He et al. 2016), four stages"
    MODELS.add(_name, partial(_build, name=_name, unit=_unit, depths=_depths), _summary)
for _layers in (20, 32, 56, 110):  # 6n + 2 layers: three stages of n units of two convolutions, a stem and a head
    _builder = partial(_build_cifar, name=f"resnet{_layers}", depths=((_layers - 2) // 6,) * 3)
    MODELS.add(f"resnet{_layers}", _builder, f"ResNet-{_layers} (He et al. 2016), three narrow stages, for CIFAR")
