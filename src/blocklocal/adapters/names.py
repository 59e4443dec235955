"""Models of other libraries by name: `hf:NAME`, `timm:NAME`, `torchvision:NAME`."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from blocklocal._common.errors import InputError, first_line
from blocklocal._common.extras import Extra, check_extras
from blocklocal.adapters import timm, torchvision, transformers

_BUILDERS: dict[str, tuple[Extra, Callable[..., nn.Module]]] = {
    "hf": ("hf", transformers.build),
    "timm": ("timm", timm.build),
    "torchvision": ("torchvision", torchvision.build),
}


def is_named(name: str) -> bool:
    """Whether it names a model of another library."""
    return name.partition(":")[0] in _BUILDERS and ":" in name


def build_named(
    name: str, *, classes: int, channels: int, image_size: tuple[int, int], pretrained: bool = False, **options: Any
) -> nn.Module:
    """Build an image classifier of another library.

    Args:
        name: `hf:` with a folder, a name on the hub or a type such as vit; `timm:` or `torchvision:` with a name.
        classes: number of logits, [B, classes].
        channels, image_size: the input is [B, channels, image_size[0], image_size[1]], in pixels.
        pretrained: with the published weights; layers of other shapes, such as the head, begin anew.
        options: the model's own.

    Raises:
        InputError: the library is not installed, or cannot build the model.
    """
    library, _, rest = name.partition(":")
    extra, build = _BUILDERS[library]
    check_extras(extra)
    if not rest:
        raise InputError(f"--model {name} names no model: give one behind the colon.")
    if pretrained and torch.empty(0).is_meta:
        raise InputError("--pretrained loads whole networks: leave out --visit, or give Streamed weights= in Python.")
    try:
        return build(rest, classes=classes, channels=channels, image_size=image_size, pretrained=pretrained, **options)
    except InputError:
        raise
    except Exception as reason:  # whatever the library raises
        raise InputError(f"{name} cannot be built: {type(reason).__name__}: {first_line(reason)}.") from reason
