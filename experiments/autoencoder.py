"""A convolutional autoencoder in block pairs (paper, Fig. 2A and D): pair k is encoder block f_k and decoder block g_k.

    image ─ z_0 → f_1 → z_1 → f_2 → z_2 → f_3 → z_3, the bottleneck
            z'_0 ← g_1 ← z'_1 ← g_2 ← z'_2 ← g_3 ←┘

Every z is a message: a Gaussian per value, its means in the first half of the channels and its log-variances in the
second, [B, 2C, H, W] or [B, 2U]. What is sent down is taken as certain: its log-variance is one constant, s₀² for
pixels and s² for hidden values. What comes back up says its own. Encoder blocks end in a normalisation without weights,
so that s is a fraction of a hidden value's deviation, and begin with the ReLU (values are sent before it).

It learns images, not classes, so it is not in the registry of models.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn as nn
from torch import Tensor

from blocklocal._common.errors import InputError
from blocklocal._common.ranges import FROM_ONE, Range, check_range

ABOVE_ZERO = Range(0, math.inf, above=True, below=True)


@dataclass(frozen=True)
class Sizes:
    """channels, height, width: of the image, sides in pixels that 4 divides. wide: channels of z_1 (z_2 has twice as
    many). hidden: units of the dense layers. bottleneck: values of z_3.

    image_deviation: s₀, in pixels of [0, 1]; hidden_deviation: s, in deviations of a hidden value.
    """

    channels: int = 1
    height: int = 28
    width: int = 28
    wide: int = 12
    hidden: int = 256
    bottleneck: int = 32
    image_deviation: float = 0.05
    hidden_deviation: float = 0.3

    def __post_init__(self) -> None:
        for name in ("channels", "height", "width", "wide", "hidden", "bottleneck"):
            check_range(name, getattr(self, name), FROM_ONE)
        for name in ("image_deviation", "hidden_deviation"):
            check_range(name, getattr(self, name), ABOVE_ZERO)
        if self.height % 4 or self.width % 4:
            raise InputError(
                f"the autoencoder halves images twice, so 4 must divide both sides, not {self.height}x{self.width}: "
                "load them with an image_size such as 28 or 32."
            )

    @property
    def latents(self) -> list[tuple[int, ...]]:
        """The shapes of z_0 … z_3, without batch and log-variances."""
        h, w = self.height, self.width
        maps = [(self.channels, h, w), (self.wide, h // 2, w // 2), (2 * self.wide, h // 4, w // 4)]
        return [*maps, (self.bottleneck,)]

    def log_variance(self, level: int) -> float:
        """log s₀² for pixels (level 0), log s² for hidden values."""
        return 2 * math.log(self.hidden_deviation if level else self.image_deviation)


def certain(mean: Tensor, log_variance: float) -> Tensor:
    """The message of values that are known up to a constant variance: mean [B, C, …] → [B, 2C, …]."""
    return torch.cat((mean, torch.full_like(mean, log_variance)), 1)


def moments(message: Tensor) -> tuple[Tensor, Tensor]:
    """A message [B, 2C, …] as (means, log-variances), [B, C, …] each."""
    mean, log_variance = message.chunk(2, 1)
    return mean, log_variance


class Means(nn.Module):
    """The means of a message. Hidden encoder blocks read nothing else: the log-variances they get are one constant."""

    def forward(self, message: Tensor) -> Tensor:
        return moments(message)[0]


class Certain(nn.Module):
    """Turns values into their message with a constant log-variance."""

    def __init__(self, log_variance: float):
        super().__init__()
        self.log_variance = log_variance

    def forward(self, mean: Tensor) -> Tensor:
        return certain(mean, self.log_variance)


class Pair(nn.Module):
    """encoder: message z_{k-1} → message z_k. decoder: message z_k or z'_k → message z'_{k-1}."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module):
        super().__init__()
        self.encoder, self.decoder = encoder, decoder


class Autoencoder(nn.Module):
    """Three pairs, the outermost first. forward: images in [0, 1], [B, C, H, W] → message z'_0, [B, 2C, H, W]."""

    def __init__(self, sizes: Sizes):
        super().__init__()
        self.sizes = sizes
        self.pairs = nn.ModuleList([_outer(sizes), _middle(sizes), _deepest(sizes)])

    def forward(self, image: Tensor) -> Tensor:
        message = self.message(image)
        for pair in self.chain():
            message = pair.encoder(message)
        for pair in reversed(self.chain()):
            message = pair.decoder(message)
        return message

    def chain(self) -> list[Pair]:
        """The pairs, the outermost first."""
        return [pair for pair in self.pairs if isinstance(pair, Pair)]

    def message(self, image: Tensor) -> Tensor:
        """z_0: the image, with its constant log-variance. Raises InputError for images of another shape."""
        expected = self.sizes.latents[0]
        if tuple(image.shape[1:]) != expected or not image.is_floating_point():
            raise InputError(
                f"the autoencoder takes floating point images [B, {', '.join(map(str, expected))}] in [0, 1], not "
                f"{image.dtype} {list(image.shape)}."
            )
        return certain(image, self.sizes.log_variance(0))


def _outer(s: Sizes) -> Pair:
    """Half the resolution and back. Only here an encoder reads log-variances: they are part of the data."""
    encoder = nn.Sequential(
        nn.Conv2d(2 * s.channels, s.wide, 4, 2, 1, bias=False), _normal(s.wide), Certain(s.log_variance(1))
    )
    return Pair(encoder, _rise(s.wide, s.channels))


def _middle(s: Sizes) -> Pair:
    """A quarter of the resolution and back."""
    down = nn.Conv2d(s.wide, 2 * s.wide, 4, 2, 1, bias=False)
    encoder = nn.Sequential(Means(), nn.ReLU(), down, _normal(2 * s.wide), Certain(s.log_variance(2)))
    return Pair(encoder, _rise(2 * s.wide, s.wide))


def _deepest(s: Sizes) -> Pair:
    """Dense, to the bottleneck and back."""
    channels, h, w = s.latents[2]
    encoder = nn.Sequential(
        Means(),
        nn.ReLU(),
        nn.Flatten(),
        *_dense(channels * h * w, s.hidden),
        nn.Linear(s.hidden, s.bottleneck, bias=False),
        nn.BatchNorm1d(s.bottleneck, affine=False),
        Certain(s.log_variance(3)),
    )
    last = nn.Linear(s.hidden, 2 * channels * h * w)
    decoder = nn.Sequential(*_dense(2 * s.bottleneck, s.hidden), last, nn.Unflatten(1, (2 * channels, h, w)))
    return Pair(encoder, decoder)


def _rise(given: int, wanted: int) -> nn.Module:
    """A decoder block to twice the resolution: message [B, 2·given, H, W] → [B, 2·wanted, 2H, 2W]."""
    between = given + 8
    return nn.Sequential(
        nn.Conv2d(2 * given, between, 1, bias=False),
        nn.BatchNorm2d(between),
        nn.ReLU(),
        nn.ConvTranspose2d(between, 2 * wanted, 4, 2, 1),
    )


def _dense(given: int, hidden: int) -> list[nn.Module]:
    return [nn.Linear(given, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU()]


def _normal(channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels, affine=False)
