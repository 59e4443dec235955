"""VGG8B of Nøkland & Eidnes 2019 (arXiv 1901.06656, github.com/anokland/local-loss): six 3x3 convolutions, two dense.

conv128 - conv256 - pool - conv256 - conv512 - pool - conv512 - pool - conv512 - pool - fc1024 - fc; BatchNorm, ReLU and
dropout follow every layer but the last. Theirs has a bias before BatchNorm (without effect) and a last layer that
starts at zero; here convolutions have no bias and the last layer starts as PyTorch sets it.
"""

from collections import OrderedDict

from torch import nn

from blocklocal._common.errors import InputError
from blocklocal.models.base import MODELS, ChainModel, Shape, check_smallest

# (channels in units of the width, halve the image before this convolution)
_CONVS = ((1, False), (2, False), (2, True), (4, False), (4, True), (4, True))
_DENSE = 8
_SHRINK = 16  # three poolings between convolutions and one after the last


class VGG8B(ChainModel):
    """[B, C, H, W] -> [B, classes]. Pieces `conv1` ... `conv6`, `dense`, `head`; all but the first begin with ReLU."""

    def __init__(self, classes: int, input_shape: Shape, width: int = 128, dropout: float = 0.0):
        super().__init__()
        self.input_shape = input_shape
        channels, height, image_width = input_shape
        for i, (multiple, pool) in enumerate(_CONVS):
            start = _start(i > 0, nn.Dropout2d(dropout), pool)
            start["conv"] = nn.Conv2d(channels, multiple * width, 3, 1, 1, bias=False)
            start["norm"] = nn.BatchNorm2d(multiple * width)
            self.add_module(f"conv{i + 1}", nn.Sequential(start))
            channels = multiple * width
        features = channels * (height // _SHRINK) * (image_width // _SHRINK)
        dense = _start(True, nn.Dropout2d(dropout), pool=True)
        dense["flatten"] = nn.Flatten()
        dense["linear"] = nn.Linear(features, _DENSE * width, bias=False)
        dense["norm"] = nn.BatchNorm1d(_DENSE * width)
        self.dense = nn.Sequential(dense)
        head = _start(True, nn.Dropout(dropout), pool=False)
        head["linear"] = nn.Linear(_DENSE * width, classes)
        self.head = nn.Sequential(head)


def _start(after_layer: bool, dropout: nn.Dropout | nn.Dropout2d, pool: bool) -> OrderedDict[str, nn.Module]:
    """What stands between two layers: ReLU, dropout, pooling."""
    layers = OrderedDict[str, nn.Module]()
    if after_layer:
        layers["relu"] = nn.ReLU()
        if dropout.p > 0:
            layers["dropout"] = dropout
    if pool:
        layers["pool"] = nn.MaxPool2d(2)
    return layers


def _build(classes: int, input_shape: Shape, width: int = 128, dropout: float = 0.0) -> nn.Module:
    check_smallest("vgg8b", input_shape, _SHRINK, "enlarge the images, or take 'mlp' or a resnet with the small stem.")
    if isinstance(dropout, bool) or not isinstance(dropout, (int, float)) or not 0 <= dropout < 1:
        raise InputError(f"dropout must be a probability from 0 to below 1, not {dropout!r}.")
    return VGG8B(classes, input_shape, width, dropout)


MODELS.add("vgg8b", _build, "VGG-8B, six convolutions and two dense layers (Nøkland & Eidnes 2019)")
