"""Models of timm."""

from difflib import get_close_matches
from typing import Any

import torch
from torch import nn

from blocklocal._common.errors import unknown

LIBRARY = "timm"
TRACEABLE = True
DRAWS_ON_META = True


def is_one(model: nn.Module) -> bool:
    return type(model).__module__.startswith("timm.models.")


def extra(model: nn.Module) -> dict[str, Any]:
    return {}


def example(model: nn.Module) -> Any:
    """Images of the size that the model was made for."""
    known: Any = getattr(model, "default_cfg", None) or {}
    shape = known.get("input_size", (3, 224, 224))
    embedding = getattr(model, "patch_embed", None)
    size = getattr(embedding, "img_size", None)  # set by create_model(img_size=...)
    if size is not None:
        shape = (shape[0], *size)
    first = next((p for p in model.parameters() if p.dim() == 4), None)
    channels = first.shape[1] if first is not None else shape[0]
    return torch.zeros(2, channels, *shape[1:], device=None if first is None else first.device)


def build(
    name: str, *, classes: int, channels: int, image_size: tuple[int, int], pretrained: bool = False, **options: Any
) -> nn.Module:
    """A model by its name; those of fixed image size get this one."""
    from timm import create_model, is_model, list_models

    if not is_model(name.partition(".")[0]):
        raise unknown("model of timm", name, get_close_matches(name, list_models(), n=5) or ["timm.list_models()"])
    wanted: dict[str, Any] = {"num_classes": classes, "in_chans": channels, "pretrained": pretrained, **options}
    try:
        return create_model(name, img_size=image_size, **wanted)
    except TypeError:  # a network that takes images of any size
        return create_model(name, **wanted)
