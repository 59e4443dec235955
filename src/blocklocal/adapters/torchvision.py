"""Models of torchvision."""

from typing import Any

import torch
from torch import nn

LIBRARY = "torchvision"
TRACEABLE = True
_SIDES = {"Inception3": 299, "VisionTransformer": 224}


def is_one(model: nn.Module) -> bool:
    return type(model).__module__.startswith("torchvision.models.")


def extra(model: nn.Module) -> dict[str, Any]:
    return {}


def example(model: nn.Module) -> Any:
    """Images of the size that the model was made for."""
    side: Any = getattr(model, "image_size", None) or _SIDES.get(type(model).__name__, 224)
    first = next((p for p in model.parameters() if p.dim() == 4), None)
    channels = 3 if first is None else first.shape[1]
    return torch.zeros(2, channels, side, side, device=None if first is None else first.device)
