"""Which library a model comes from, told by its classes; nothing is imported that the program has not imported."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from blocklocal.adapters import timm, torchvision, transformers


@dataclass(frozen=True)
class Usage:
    """How a model is used.

    Attributes:
        extra: arguments of its forward at every call in training, by name.
        example: a small batch as it takes it; None: not known.
        traceable: whether it is worth trying to trace it.
        draws_on_meta: whether its construction draws weights on the device meta as well, where nothing has content.
    """

    extra: Mapping[str, Any] = field(default_factory=dict)
    example: Any = None
    traceable: bool = True
    draws_on_meta: bool = True


_FAMILIES = (transformers, timm, torchvision)


def usage(model: nn.Module) -> Usage:
    """How a model is used; of a model of no known library nothing is known."""
    inner = _unwrapped(model)
    for family in _FAMILIES:
        if family.LIBRARY in sys.modules and family.is_one(inner):
            return Usage(family.extra(inner), family.example(inner), family.TRACEABLE, family.DRAWS_ON_META)
    return Usage()


def _unwrapped(model: nn.Module) -> nn.Module:
    """The model inside a `PeftModel`."""
    inside = getattr(model, "get_base_model", None)
    return inside() if type(model).__module__.startswith("peft.") and callable(inside) else model
