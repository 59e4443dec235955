"""A trained model as a folder that others open without this library: safetensors, config.json, README.md."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_model
from torch import nn

from blocklocal._common.errors import InputError
from blocklocal._common.files import write_text

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"


def new_folder(folder: Path | str) -> Path:
    """A new or empty folder.

    Raises:
        InputError: it holds something.
    """
    place = Path(folder)
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise InputError(f"{place} is there and not empty: give a new folder.")
    place.mkdir(parents=True, exist_ok=True)
    return place


def write_pretrained(model: nn.Module, folder: Path | str, config: dict[str, Any], card: str) -> Path:
    """Write a plain model; one with a `save_pretrained` of its own (Hugging Face) writes weights and config itself.

    Args:
        model: the user's module, trained.
        folder: a new or empty one.
        config: for config.json.
        card: the text of README.md.

    Raises:
        InputError: the folder holds other things, or the model's state holds what is no tensor.
        OSError: it cannot be written.
    """
    place = new_folder(folder)
    own = getattr(model, "save_pretrained", None)
    if callable(own):
        own(place)
    else:
        try:
            save_model(model, str(place / WEIGHTS))
        except (SafetensorError, ValueError, TypeError, AttributeError, RuntimeError) as error:
            raise InputError(
                f"the model cannot be written as safetensors ({error}): its state must hold tensors alone. "
                'torch.save(network.to_plain().state_dict(), "model.pt") keeps anything.'
            ) from error
        write_text(place / CONFIG, json.dumps(config, indent=2) + "\n")
    write_text(place / CARD, card)
    return place


def model_card(title: str, lines: list[str], tags: list[str]) -> str:
    """A README.md with the head that the Hugging Face hub reads.

    Args:
        lines: the text below the title, in Markdown.
        tags: beside blocklocal.
    """
    head = ["---", "library_name: pytorch", "tags:", "- blocklocal", *(f"- {tag}" for tag in tags), "---"]
    return "\n".join([*head, "", f"# {title}", "", *lines]) + "\n"


HOW_TO_LOAD = [
    "## Load it",
    "",
    "The weights are those of the plain model, by the names of its `state_dict`; they load without blocklocal:",
    "",
    "```python",
    "from safetensors.torch import load_model",
    "",
    "model = ...  # the module, built as before training",
    'load_model(model, "model.safetensors")',
    "model.eval()",
    "```",
]
