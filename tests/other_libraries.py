"""Tiny models of other libraries, built from their configurations without weights; a test without the library skips."""

import warnings
from importlib.util import find_spec
from typing import Any

import pytest
import torch

_LIBRARY: list[Any] = []  # kept, or torch takes the definitions back


def quiet_import(name: str) -> Any:
    """The library, imported without its own warnings."""
    define_operators()  # transformers and timm import torchvision where there is one
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        library = pytest.importorskip(name, exc_type=ImportError)
    if name == "transformers":
        library.logging.set_verbosity_error()
    return library


def define_operators() -> None:
    """What torchvision's wheel for CUDA misses beside the CPU build of torch; its models need none of it."""
    if _LIBRARY or find_spec("torchvision") is None:
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _LIBRARY.append(library)


TEXT = {
    "vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32,
    "max_position_embeddings": 20, "pad_token_id": 0,
}  # fmt: skip


def ids(samples: int = 4, length: int = 7) -> dict[str, torch.Tensor]:
    """Token ids with padding in all samples but the first."""
    numbers = torch.randint(1, 50, (samples, length), generator=torch.Generator().manual_seed(2))
    mask = torch.ones_like(numbers)
    mask[1:, length - 2 :] = 0
    return {"input_ids": numbers, "attention_mask": mask}


def images(samples: int = 4, side: int = 32) -> torch.Tensor:
    return torch.randn(samples, 3, side, side, generator=torch.Generator().manual_seed(2))
