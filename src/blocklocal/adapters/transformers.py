"""Models of Hugging Face transformers."""

import inspect
from pathlib import Path
from typing import Any

import torch
from torch import nn

from blocklocal._common.errors import InputError

LIBRARY = "transformers"
TRACEABLE = False
DRAWS_ON_META = False  # it leaves its own initialisation out there
_SAMPLES, _LENGTH = 2, 8


def is_one(model: nn.Module) -> bool:
    return any(kind.__name__ == "PreTrainedModel" for kind in type(model).__mro__)


def extra(model: nn.Module) -> dict[str, Any]:
    """No cache of keys and values: it serves generation, and would hold on to every block's activations."""
    return {"use_cache": False} if getattr(model.config, "use_cache", False) and _takes(model, "use_cache") else {}


def example(model: nn.Module) -> Any:
    """Images of the size in the configuration; token ids with a mask for text."""
    config: Any = model.config
    device = next((p.device for p in model.parameters()), None)
    name = model.main_input_name
    if name == "pixel_values":
        side = getattr(config, "image_size", None) or 64
        height, width = side if isinstance(side, list | tuple) else (side, side)
        return torch.zeros(_SAMPLES, getattr(config, "num_channels", 3), height, width, device=device)
    if name != "input_ids":
        return None
    ids = torch.arange(_SAMPLES * _LENGTH, device=device).view(_SAMPLES, _LENGTH) % config.get_text_config().vocab_size
    mask = torch.ones_like(ids)
    mask[-1, _LENGTH // 2 :] = 0
    return {"input_ids": ids, "attention_mask": mask}


def _takes(model: nn.Module, name: str) -> bool:
    parameters = inspect.signature(model.forward).parameters
    return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def build(
    name: str, *, classes: int, channels: int, image_size: tuple[int, int], pretrained: bool = False, **options: Any
) -> nn.Module:
    """An image classifier from a folder, a type of model such as vit, or a name on the hub."""
    from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForImageClassification

    wanted = {"num_labels": classes, "num_channels": channels, **options}
    if name in CONFIG_MAPPING and not Path(name).is_dir():
        if pretrained:
            raise InputError(f"hf:{name} is a type of model, without weights: give a folder or a name on the hub.")
        config = AutoConfig.for_model(name, **wanted)
    else:
        config = AutoConfig.from_pretrained(str(Path(name).expanduser()) if Path(name).is_dir() else name, **wanted)
    if isinstance(getattr(config, "image_size", None), int):
        if image_size[0] != image_size[1]:
            raise InputError(f"hf:{name} takes square images, not {image_size[0]}x{image_size[1]}: give --image-size.")
        config.image_size = image_size[0]
    if torch.empty(0).is_meta:  # where transformers leaves its own initialisation out
        raise InputError(
            f"hf:{name} cannot be trained one block at a time by name, because transformers draws no weights of its "
            "own on the device meta: train it whole, or give Streamed a builder and weights= in Python."
        )
    if not pretrained:
        return AutoModelForImageClassification.from_config(config)
    return AutoModelForImageClassification.from_pretrained(name, config=config, ignore_mismatched_sizes=True)
