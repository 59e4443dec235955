"""Batches of an image split: shuffled, augmented and normalised on the device, and resumable at any step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from blocklocal._common.errors import InputError, shown
from blocklocal._common.seeds import generator
from blocklocal.data.augment import augmenter
from blocklocal.data.augment_masks import augmenter_alike
from blocklocal.data.epochs import Epochs
from blocklocal.data.images import Images, as_targets
from blocklocal.data.mix import mixer
from blocklocal.data.order import Order
from blocklocal.data.pixel_file import PixelFile
from blocklocal.data.prefetch import ahead

_LEVELS = 255  # the largest uint8 pixel value, read as 1.0


class Batches(Epochs):
    """Epochs of (x, y): float32 [B, C, H, W], normalised to (pixels / 255 - mean) / std, and `Images.labels`.

    Pixels stay uint8 on `device`; only the current batch is a float. Those in a file (`PixelFile`) stay there, and a
    batch is read while the one before is used: its values are the same.

    The order depends on (seed, epoch) alone and the augmentation of batch i on (seed, epoch, i) alone: a run stopped
    after any step goes on bit for bit with `epoch(number, start=step)`.

    The last, smaller batch is kept. Only when shuffling, a last batch of a single image is dropped (BatchNorm cannot
    use it; another image each epoch) unless it is the only batch.

    Args:
        images: those without pixels ([N, C, 0, 0]: another process has them) give x without pixels and the labels in
            the same order.
        mean, std: per channel, of pixels in [0, 1].
        augment: "crop,flip,cutout", see `augmenter` (of masks `augmenter_alike`); before normalisation, so what is
            filled in is black.
        mix: "mixup" or "cutmix", see `mixer`: y is then float32 [B, classes], the share of every class.
        classes: their number, where images are mixed.
        second: how the second view of every image is augmented, "" for not at all: a batch then holds all first views
            and all second ones behind them, in x and y alike. None for one view.
        share: (i, n) takes the i-th of n equal parts of every batch, i from 0; up to n - 1 images of the last batch are
            left out.

    Raises:
        InputError: there are no images, mean or std are not numbers or a std is not above 0, or sizes do not fit.
    """

    def __init__(
        self,
        images: Images,
        *,
        batch_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        shuffle: bool = False,
        augment: str = "",
        seed: int = 0,
        device: str | torch.device = "cpu",
        channels_last: bool = False,
        share: tuple[int, int] = (0, 1),
        mix: str = "",
        classes: int | None = None,
        second: str | None = None,
    ):
        if not isinstance(images, Images):
            raise InputError(f"Batches takes the images of one split, as data.train, not {type(images).__name__}.")
        if len(images) == 0:
            raise InputError("there are no images to make batches of. Give a split with at least one image.")
        self.device = torch.device(device)
        self.pixels = images.pixels if isinstance(images.pixels, PixelFile) else images.pixels.to(device)
        self.labels = images.labels.to(device)
        self.order = Order(len(images), batch_size, shuffle, seed, share)
        self.augment = augmenter(augment)
        self.augment_alike = augmenter_alike(augment) if images.labels.dim() == 3 else None
        self.mix = None if not mix else mixer(mix, self._count(classes, images))
        self.seed, self.second = seed, None if second is None else augmenter(second)
        if second is not None and (mix or images.labels.dim() == 3):
            raise InputError("two views are of images that have one answer each and are not mixed: leave mix out.")
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        channels = images.pixels.shape[1]
        self.mean = per_channel("mean", mean, channels, self.device)
        self.std = per_channel("std", std, channels, self.device)
        if not bool((self.std > 0).all()):
            raise InputError(f"std must be above 0 in every channel, not {list(std)}.")

    def _count(self, classes: int | None, images: Images) -> int:
        if images.labels.dim() != 1:
            raise InputError("images are mixed where each has one class, and these are asked for more: leave mix out.")
        if int(images.labels.min()) < 0:
            raise InputError("images are mixed with their labels, and some have none: leave mix out, or --labelled.")
        if classes is None or int(images.labels.max()) >= classes:
            raise InputError(f"images are mixed, so Batches needs the number of classes, not classes={classes}.")
        if not images.pixels.shape[2]:
            raise InputError("images are mixed in one process alone, which has their pixels: leave mix out.")
        return classes

    def sizes(self, start: int = 0) -> list[int]:
        views = 1 if self.second is None else 2
        return [views * size for size in super().sizes(start)]

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        places = self.order.places(epoch, start).to(self.pixels.device)
        read = (self._read(step, places) for step in range(start, len(self)))
        if isinstance(self.pixels, PixelFile):
            read = ahead(read)
        return (self._batch(epoch, *each) for each in read)

    def _read(self, step: int, places: Tensor) -> tuple[int, Tensor, Tensor]:
        """(step, places of its images, their pixels)."""
        index = self.order.part(places, step)
        return step, index, self.pixels[index]

    def _batch(self, epoch: int, step: int, index: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
        pixels = pixels.to(self.device)
        y = self.labels[index.to(self.labels.device)]
        part = self.order.share[0]
        named = (self.seed, epoch, step, *((part,) if part else ()))
        if self.augment_alike is not None:
            pixels, y = self.augment_alike(pixels, y, generator("augment", *named))
        else:
            ways = {"augment": self.augment} | ({} if self.second is None else {"second view": self.second})
            views = [do(pixels, generator(name, *named)) if pixels.numel() else pixels for name, do in ways.items()]
            pixels, y = (views[0], y) if len(views) == 1 else (torch.cat(views), torch.cat([y] * len(views)))
        x = (pixels.float() - self.mean) / self.std
        y = as_targets(y)
        if self.mix is not None:
            x, y = self.mix(x, y, generator("mix", self.seed, epoch, step, self.order.share[0]))
        return x.contiguous(memory_format=self.memory_format), y


def per_channel(name: str, values: Sequence[float], channels: int, device: torch.device) -> Tensor:
    """Values per channel of pixels in [0, 1] → float32 [C, 1, 1] on the grey scale 0..255, as uint8 pixels are.

    Raises:
        InputError: there is not one finite number per channel.
    """
    try:
        known = not isinstance(values, str) and all(math.isfinite(value) for value in values)
    except (TypeError, ValueError):
        known = False
    if not known:
        raise InputError(f"{name} must be a list of one number per channel, not {shown(values)}.")
    if len(values) != channels:
        raise InputError(f"{name} has {len(values)} values, but the images have {channels} channels.")
    return torch.tensor([value * _LEVELS for value in values], device=device).view(-1, 1, 1)
