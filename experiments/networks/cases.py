"""The networks: how each is built and cut, and the settings under which each rule trains it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import blocklocal as bl
from experiments.networks.data import LENGTH, PACKAGES, WORDS, Parts, Size, mosaics, pictures, sources

BLOCKS = 4
RULES = ("backprop", "frozen", "block-local")


@dataclass(frozen=True)
class Way:
    """How one rule trains one network. lr: learning rate. tried: those that `--choose` compares on validation data."""

    lr: float
    tried: tuple[float, ...]
    learning: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """A network, its data and its settings.

    model: draws a new one. data: (folder of image sets, size, batch, seed) → its parts. measure: by which it is judged,
    in percent, a name in `Evaluation.measured`. sizes: "full", "search" (on which `--choose` compares rates) and
    "small". ways: by rule. cut: settings of `split`.
    """

    name: str
    words: str
    model: Callable[[], nn.Module]
    data: Callable[[Path | None, Size, int, int], Parts]
    classes: int
    measure: str
    batch: int
    sizes: Mapping[str, Size]
    optimizer: Callable[..., bl.Optimizer]
    ways: Mapping[str, Way]
    cut: Mapping[str, Any] = field(default_factory=dict)

    def build(self, rule: str, example: Any, seed: int, lr: float | None = None) -> bl.BlockLocal:
        """The network under one rule, with the same first weights under all."""
        way = self.ways[rule]
        torch.manual_seed(seed)
        model = self.model()
        cut = bl.split(model, BLOCKS, example=example, **self.cut) if rule != "backprop" else bl.split(model, 1)
        optimizer = self.optimizer(lr=lr or way.lr)
        return bl.BlockLocal(
            cut, classes=self.classes, rule=rule, optimizer=optimizer, example=example, seed=seed, **way.learning
        )


def vit() -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig.from_dict(_TRANSFORMER | {"image_size": 28, "patch_size": 4, "num_channels": 1})
    config.num_labels = 10
    return ViTForImageClassification(config)


def bert() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    settings = {"vocab_size": WORDS, "max_position_embeddings": LENGTH, "num_labels": len(PACKAGES)}
    return BertForSequenceClassification(BertConfig.from_dict(_TRANSFORMER | settings))


_TRANSFORMER = {"num_hidden_layers": 12, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
_UNET = partial(bl.build_model, "unet", classes=11, channels=1, image_size=(28, 28), width=16, depth=2)
_RESNET = partial(bl.build_model, "resnet50", classes=10, channels=3, image_size=(32, 32), width=8)


def _ways(lr: tuple[float, float, float], tried: tuple[float, ...], **learning: Any) -> dict[str, Way]:
    """All rules with the same candidates; what `learning` changes is of block-local.

    lr: of backprop, the control and block-local, by `--choose --size search`.
    """
    chosen = zip(RULES, lr, strict=True)
    return {rule: Way(rate, tried, learning if rule == "block-local" else {}) for rule, rate in chosen}


_SMALL = Size(64, 50, 100, 1)
_ADAMW = partial(bl.adamw, weight_decay=0.05, clip=1.0)
CASES = {
    case.name: case
    for case in (
        Case(
            "vit",
            "ViT of Hugging Face, 12 layers of width 64, 49 patches; Fashion-MNIST",
            vit,
            partial(pictures, "fashion-mnist"),
            10,
            "top1",
            64,
            {"full": Size(10_000, 2_000, 10_000, 6), "search": Size(10_000, 2_000, 100, 2), "small": _SMALL},
            _ADAMW,
            _ways((1.5e-3, 4e-3, 4e-3), (5e-4, 1.5e-3, 4e-3), readout=0),
        ),
        Case(
            "bert",
            f"BERT-type classifier of Hugging Face, 12 layers of width 64, {LENGTH} words; the package of Python's "
            f"standard library that a piece of source is from, {len(PACKAGES)} classes",
            bert,
            sources,
            len(PACKAGES),
            "top1",
            32,
            {"full": Size(4_000, 1_000, 2_000, 8), "search": Size(4_000, 1_000, 100, 3), "small": _SMALL},
            _ADAMW,
            _ways((1e-3, 3e-3, 3e-3), (3e-4, 1e-3, 3e-3)),
        ),
        Case(
            "resnet50",
            "ResNet-50 of width 8; CIFAR-10",
            _RESNET,
            partial(pictures, "cifar10"),
            10,
            "top1",
            128,
            {"full": Size(10_000, 2_000, 5_000, 5), "search": Size(5_000, 2_000, 100, 2), "small": _SMALL},
            partial(bl.sgd, weight_decay=5e-4),
            _ways((0.02, 0.02, 0.02), (0.01, 0.02, 0.05, 0.2)),
            {"balance": "bytes"},
        ),
        Case(
            "unet",
            "U-Net of widths 16, 32 and 64, its skips carried across the cuts; four items of Fashion-MNIST in a "
            "picture, with noise: the class of every pixel, or none",
            _UNET,
            mosaics,
            11,
            "mean_iou",
            32,
            {"full": Size(8_000, 1_000, 2_000, 5), "search": Size(4_000, 1_000, 100, 2), "small": _SMALL},
            bl.adam,
            _ways((1e-2, 3e-2, 1e-2), (3e-3, 1e-2, 3e-2)),
        ),
    )
}
