"""Tiny networks that are trained in the ordinary way and block by block, and what is compared of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from run_helpers import TIMES, equal
from torch import Tensor, nn

from blocklocal import BlockLocal, Trainer, adamw, split
from blocklocal._common.seeds import seeded
from blocklocal.block.learner import BlockLearner
from blocklocal.network.neighbours import Neighbours
from blocklocal.streaming.streamed import Streamed
from blocklocal.training.checkpoint_draft import Saved

CLASSES, FEATURES, BATCH = 3, 6, 4
MAPS = (2, 4, 4)
CHUNK = 2  # steps of a chunk
Batch = tuple[Tensor, Tensor]
Build = Callable[[], BlockLocal]


def made(
    module: Callable[[], nn.Module],
    blocks: int | None = 3,
    shape: tuple[int, ...] = (FEATURES,),
    at: list[str] | None = None,
    **settings: Any,
) -> Build:
    """What builds a network of this module, with weights that its seed names."""

    def build() -> BlockLocal:
        with seeded("model", 5):
            model = module()
        example = {"classes": CLASSES, "example": torch.zeros(2, *shape)}
        return BlockLocal(split(model, blocks=blocks, at=at), **{**example, **settings})

    return build


def dense() -> nn.Module:
    """Three linear layers, with dropout."""
    layers = [nn.Sequential(nn.Linear(FEATURES, FEATURES), nn.ReLU(), nn.Dropout(0.3)) for _ in range(2)]
    return nn.Sequential(*layers, nn.Linear(FEATURES, CLASSES))


def maps() -> nn.Module:
    """Convolutions with BatchNorm, on 2 × 4 × 4."""
    layers = [nn.Sequential(nn.Conv2d(channels, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()) for channels in (2, 4)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, CLASSES))


def batches(count: int = 3, shape: tuple[int, ...] = (FEATURES,)) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.rand(BATCH, *shape, generator=generator), torch.randint(0, CLASSES, (BATCH,), generator=generator))
        for _ in range(count)
    ]


def streamed(build: Build, store: Path | str = "ram", *, visit: int = CHUNK, **settings: Any) -> Streamed:
    return Streamed(build, visit=visit, store=store, **settings)


def kept(network: Neighbours) -> list[Any]:
    """Weights, buffers, optimisers and schedules of all blocks."""

    def of(learner: BlockLearner) -> Any:
        saved = Saved.of(learner)
        buffers = {name: buffer.clone() for name, buffer in learner.named_buffers()}  # also those in no state_dict
        return {name: value.clone() for name, value in saved.weights.items()}, buffers, _copy(saved.optimizer)

    return network.each(of)


def _copy(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {name: _copy(each) for name, each in value.items() if not callable(each)}
    return [_copy(each) for each in value] if isinstance(value, list | tuple) else value


def timeless(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in record.items() if name not in TIMES} for record in records]


def trained(network: Neighbours, data: Any, *, validation: Any = None, **settings: Any) -> list[dict[str, Any]]:
    """Train for two epochs; returns the records without times."""
    trainer = Trainer(network, **{"optimizer": adamw(lr=0.01), "epochs": 2, **settings})
    return timeless(trainer.fit(data, validation))


def assert_same_network(ordinary: Neighbours, other: Neighbours) -> None:
    """Same weights, buffers, optimisers and schedules of every block."""
    assert (ordinary.steps, ordinary.epoch) == (other.steps, other.epoch)
    for k, (a, b) in enumerate(zip(kept(ordinary), kept(other), strict=True)):
        for what, mine, its in zip(("weights", "buffers", "optimiser"), a, b, strict=True):
            assert equal(mine, its), f"block {k}: {what}"
