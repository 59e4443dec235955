"""Optimisers and learning-rate schedules as small values: every block builds its own from the same recipe."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim import lr_scheduler

from blocklocal.errors import check_positive, unknown
from blocklocal.ranges import LARGEST, WEIGHT, Range, check_settings

OPTIMIZERS = ("sgd", "adam", "adamw")
SCHEDULES = ("one-cycle", "cosine", "constant")
RANGES = {
    "lr": Range(0, LARGEST, above=True),
    "momentum": Range(0, 1, below=True),
    "weight_decay": WEIGHT,
    "clip": Range(0, 1e30, above=True),  # a float32 holds it, and what it is divided by
}


@dataclass(frozen=True)
class Optimizer:
    """Which optimiser every block gets. `lr` is the peak learning rate; `clip` the largest gradient norm per block."""

    name: str = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 0.0
    clip: float | None = None

    def __post_init__(self) -> None:
        if self.name not in OPTIMIZERS:
            raise unknown("optimizer", self.name, OPTIMIZERS)
        check_settings(self, RANGES)

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """A torch optimiser over one block's parameters."""
        if self.name == "sgd":
            return torch.optim.SGD(
                parameters,
                lr=self.lr,
                momentum=self.momentum,
                nesterov=self.momentum > 0,
                weight_decay=self.weight_decay,
            )
        kind = torch.optim.Adam if self.name == "adam" else torch.optim.AdamW
        return kind(parameters, lr=self.lr, weight_decay=self.weight_decay)


def sgd(lr: float = 0.1, *, momentum: float = 0.9, weight_decay: float = 0.0, clip: float | None = None) -> Optimizer:
    """Stochastic gradient descent with Nesterov momentum."""
    return Optimizer("sgd", lr, momentum, weight_decay, clip)


def adam(lr: float = 1e-3, *, weight_decay: float = 0.0, clip: float | None = None) -> Optimizer:
    """Adam with torch's default moments."""
    return Optimizer("adam", lr, 0.9, weight_decay, clip)


def adamw(lr: float = 1e-3, *, weight_decay: float = 0.01, clip: float | None = None) -> Optimizer:
    """Adam with decoupled weight decay."""
    return Optimizer("adamw", lr, 0.9, weight_decay, clip)


def build_schedule(name: str, optimizer: torch.optim.Optimizer, steps: int) -> lr_scheduler.LRScheduler:
    """A per-step schedule of `steps` steps over the optimiser's own learning rate.

    one-cycle: torch's OneCycleLR (it cycles momentum, or Adam's first beta, between 0.85 and 0.95 too; an SGD without
    momentum stays without); cosine: to 0; constant.
    """
    check_positive("steps", steps, integer=True)
    if name == "one-cycle":
        group = optimizer.param_groups[0]
        cycles = group.get("momentum") != 0  # torch would give momentum to an SGD that was asked to have none
        return lr_scheduler.OneCycleLR(optimizer, max_lr=group["lr"], total_steps=steps, cycle_momentum=cycles)
    if name == "cosine":
        return lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    if name == "constant":
        return lr_scheduler.ConstantLR(optimizer, factor=1.0, total_iters=0)
    raise unknown("schedule", name, SCHEDULES)
