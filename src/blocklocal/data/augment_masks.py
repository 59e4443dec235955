"""Augmentation of images and of the masks that say the class of every pixel: both are moved alike."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from blocklocal._common.errors import InputError
from blocklocal.data.augment import augmenter
from blocklocal.data.images import NO_CLASS

_MOVE = ("flip", "crop", "reflect")
_COVER = ("cutout",)  # what was there is still asked for


def augmenter_alike(names: str) -> Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]:
    """A function (x [B, C, H, W], masks [B, H, W], generator) → both, with the named augmentations in order.

    Images are what `augmenter` makes of them. What comes in from outside has no target. Images without pixels
    ([B, C, 0, 0]) stay as they are, and their masks are moved.

    Raises:
        InputError: an augmentation is unknown, or would need to mix the classes of pixels.
    """
    steps = []
    for part in filter(None, map(str.strip, names.split(","))):
        of_images, name = augmenter(part), part.partition(":")[0].strip()
        if name not in (*_MOVE, *_COVER):
            raise InputError(
                f"{name} scales or turns images between their pixels, where a mask has no class: for a class per pixel "
                f"give {', '.join((*_MOVE, *_COVER))}."
            )
        steps.append((of_images, augmenter(part, fill=NO_CLASS) if name in _MOVE else None))

    def augment(x: Tensor, masks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        shown = x if x.numel() else masks.unsqueeze(1)
        for of_images, of_masks in steps:
            same = torch.Generator().set_state(generator.get_state())
            shown = of_images(shown, generator)
            if of_masks is not None:
                masks = of_masks(masks.unsqueeze(1), same).squeeze(1)
        return shown if x.numel() else x, masks

    return augment
