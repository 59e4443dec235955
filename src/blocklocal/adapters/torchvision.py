"""Models of torchvision."""

import inspect
from typing import Any

import torch
from torch import nn

from blocklocal._common.errors import unknown

LIBRARY = "torchvision"
TRACEABLE = True
DRAWS_ON_META = True
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


def build(
    name: str, *, classes: int, channels: int, image_size: tuple[int, int], pretrained: bool = False, **options: Any
) -> nn.Module:
    """A model by its name; its first convolution takes the channels of the images."""
    from torchvision.models import get_model, get_model_builder, list_models

    if name not in list_models():
        raise unknown("model of torchvision", name, list_models())
    if "image_size" in inspect.signature(get_model_builder(name)).parameters or name.startswith("vit_"):
        options.setdefault("image_size", image_size[0])
    model = get_model(name, weights=None, num_classes=classes, **options)
    if pretrained:
        _load(model, get_model(name, weights="DEFAULT").state_dict())
    if channels != 3:
        _take_channels(model, channels)
    return model


def _load(model: nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """Take over every weight whose shape fits."""
    own = model.state_dict()
    model.load_state_dict({name: w for name, w in weights.items() if own[name].shape == w.shape}, strict=False)


def _take_channels(model: nn.Module, channels: int) -> None:
    """Let the first convolution read another number of channels; its weights are the mean over the three."""
    path, first = next((path, m) for path, m in model.named_modules() if isinstance(m, nn.Conv2d))
    sizes: Any = (first.kernel_size, first.stride, first.padding)
    made = nn.Conv2d(channels, first.out_channels, *sizes, bias=first.bias is not None)
    with torch.no_grad():
        made.weight.copy_(first.weight.mean(1, keepdim=True).expand_as(made.weight) * (3 / channels))
        if first.bias is not None and made.bias is not None:
            made.bias.copy_(first.bias)
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, made)
