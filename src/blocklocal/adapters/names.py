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
    library = name.partition(":")[0]
    extra, build = _BUILDERS[library]
    given = {"classes": classes, "channels": channels, "image_size": image_size, "pretrained": pretrained}
    return _built(name, extra, build, **given, **options)


def build_named_text(name: str, *, vocabulary: int, length: int, pretrained: bool = False, **options: Any) -> nn.Module:
    """Build a causal language model of transformers; arguments as of `transformers.build_text`.

    Raises:
        InputError: it is another library's, which is not for text; or as `build_named`.
    """
    if name.partition(":")[0] != "hf":
        raise InputError(f"--model {name} is for images: for a text give decoder, or an hf: model.")
    given = {"vocabulary": vocabulary, "length": length, "pretrained": pretrained}
    return _built(name, "hf", transformers.build_text, **given, **options)


def _built(name: str, extra: Extra, build: Callable[..., nn.Module], **given: Any) -> nn.Module:
    check_extras(extra)
    rest = name.partition(":")[2]
    if not rest:
        raise InputError(f"--model {name} names no model: give one behind the colon.")
    if given["pretrained"] and torch.empty(0).is_meta:
        raise InputError("--pretrained loads whole networks: leave out --visit, or give Streamed weights= in Python.")
    try:
        return build(rest, **given)
    except InputError:
        raise
    except Exception as reason:  # whatever the library raises
        raise InputError(f"{name} cannot be built: {type(reason).__name__}: {first_line(reason)}.") from reason


def tokenizer_of(name: str) -> str | None:
    """The tokenizer.json that belongs to an `hf:` model, as text; None where there is none, or for another model.

    Raises:
        InputError: transformers is not installed, or does not find the model.
    """
    library, _, rest = name.partition(":")
    if library != "hf" or not rest:
        return None
    check_extras("hf")
    try:
        return transformers.tokenizer_of(rest)
    except Exception as reason:  # whatever the library raises
        raise InputError(f"{name} has no tokenizer: {type(reason).__name__}: {first_line(reason)}.") from reason
