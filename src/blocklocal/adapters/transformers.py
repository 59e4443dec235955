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


def build_text(name: str, *, vocabulary: int, length: int, pretrained: bool = False, **options: Any) -> nn.Module:
    """A causal language model from a folder, a type of model such as llama, or a name on the hub.

    Where embedding and head share a table, each gets its own copy, so that the model can be cut.

    Args:
        vocabulary: tokens, of a model that begins anew; a trained one has its own.
        length: positions that it must take.
    """
    from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM

    folder = Path(name).expanduser()
    kind = name in CONFIG_MAPPING and not folder.is_dir()
    if kind and pretrained:
        raise InputError(f"hf:{name} is a type of model, without weights: give a folder or a name on the hub.")
    wanted = dict(options) if pretrained else {"vocab_size": vocabulary, **options}
    place = str(folder) if folder.is_dir() else name
    config = AutoConfig.for_model(name, **wanted) if kind else AutoConfig.from_pretrained(place, **wanted)
    _check_on_cpu(name)
    longest = getattr(config.get_text_config(), "max_position_embeddings", None)
    if longest is not None and longest < length:
        raise InputError(f"hf:{name} takes {longest} positions, and windows have {length}: give --length {longest}.")
    if not pretrained:
        config.tie_word_embeddings = False
        return AutoModelForCausalLM.from_config(config)
    return _untied(AutoModelForCausalLM.from_pretrained(place, config=config, dtype=torch.float32))


def _untied(model: Any) -> nn.Module:
    """The same with a head of its own."""
    head, table = model.get_output_embeddings(), model.get_input_embeddings()
    if head is not None and head.weight is table.weight:
        head.weight = nn.Parameter(head.weight.detach().clone())
        model.config.tie_word_embeddings = False
    return model


def vocabulary_of(model: Any) -> int:
    """Tokens that a causal language model gives logits of."""
    return model.get_output_embeddings().out_features


def tokenizer_of(name: str) -> str | None:
    """The tokenizer.json that belongs to a model, as text; None for a type of model, or a folder without one."""
    from transformers import CONFIG_MAPPING, AutoTokenizer

    folder = Path(name).expanduser()
    if folder.is_dir():
        file = folder / "tokenizer.json"
        return file.read_text(encoding="utf-8") if file.is_file() else None
    if name in CONFIG_MAPPING:
        return None
    tokenizer: Any = AutoTokenizer.from_pretrained(name)
    return tokenizer.backend_tokenizer.to_str()


def _check_on_cpu(name: str) -> None:
    """Refuse the device meta, where transformers leaves its own initialisation out."""
    if torch.empty(0).is_meta:
        raise InputError(
            f"hf:{name} cannot be trained one block at a time by name, because transformers draws no weights of its "
            "own on the device meta: train it whole, or give Streamed a builder and weights= in Python."
        )


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
    _check_on_cpu(name)
    if not pretrained:
        return AutoModelForImageClassification.from_config(config)
    return AutoModelForImageClassification.from_pretrained(name, config=config, ignore_mismatched_sizes=True)
