"""Optimisers as small values: every block builds its own from the same recipe."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from blocklocal._common.choices import DecayName, OptimizerName, check_choices, values
from blocklocal._common.errors import InputError, shown, unknown
from blocklocal._common.ranges import LARGEST, WEIGHT, Range, check_range, check_settings
from blocklocal.block.factories import OptimizerFactory, made_optimizer
from blocklocal.block.groups import Groups, parameter_groups

OPTIMIZERS = values(OptimizerName)
RANGES = {
    "lr": Range(0, LARGEST, above=True),
    "momentum": Range(0, 1, below=True),
    "weight_decay": WEIGHT,
    "ema": Range(0, 1, above=True, below=True),
    "lower": Range(0, 1000, above=True),
    "clip": Range(0, 1e30, above=True),  # a float32 holds it, and what it is divided by
}


@dataclass(frozen=True)
class Optimizer:
    """Which optimiser every block gets: one of three by name, or whatever a factory makes (`Optimizer.of`).

    Attributes:
        name: sgd (with Nesterov momentum), adam or adamw; "custom" where there is a factory.
        lr: peak learning rate.
        momentum: of sgd.
        weight_decay: how strongly weights are pulled to 0.
        clip: largest gradient norm per block; None for no clipping.
        factory: makes the optimiser of a block's parameters; name, lr, momentum and weight_decay do not count then.
        decay: which parameters weight decay is on. all; matrices: those of two and more dimensions (weights of layers
            and embeddings), and not biases and the scales of norms; auto: matrices for adamw in a block with a
            LayerNorm or an RMSNorm, as transformers are trained, else all.
        groups: a function of (name, parameter) that gives the settings of that parameter where they differ, as in
            {"lr": 1e-4}. Names are those of the user's model; what the library adds is named local.….
        ema: how much of the running mean of the weights stays at an update, such as 0.999; None for no mean.
        lower: learning rate of the own weights of all blocks but the last, as a share of lr; what the library adds to
            them (readouts, twins) keeps lr. A small one suits a pretrained model.

    Raises:
        InputError: a name is unknown, or a number lies outside its range.
    """

    name: OptimizerName | Literal["custom"] = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 0.0
    clip: float | None = None
    factory: OptimizerFactory | None = None
    decay: DecayName = "auto"
    groups: Groups | None = None
    ema: float | None = None
    lower: float = 1.0

    def __post_init__(self) -> None:
        if self.factory is None and self.name not in OPTIMIZERS:
            raise unknown("optimizer", self.name, OPTIMIZERS)
        if self.groups is not None and not callable(self.groups):
            raise InputError(
                "groups must be a function of a parameter's name and the parameter that gives its settings, as in "
                f'lambda name, p: {{"lr": 1e-4}} if name.startswith("stem") else {{}}, not {shown(self.groups)}.'
            )
        check_settings(self, RANGES)
        check_choices(self, "decay")
        if self.factory is not None and self.lower != 1:
            raise InputError("lower is a share of lr, and a factory has a rate of its own: give groups=.")

    @classmethod
    def of(
        cls,
        factory: OptimizerFactory,
        *,
        clip: float | None = None,
        decay: DecayName = "all",
        groups: Groups | None = None,
    ) -> "Optimizer":
        """An optimiser of torch's or of your own: `Optimizer.of(torch.optim.RMSprop, clip=1.0)`.

        Args:
            factory: called once per block with the list of the parameters that the block trains; where some have
                settings of their own (`decay`, `groups`), with the list of their groups, as torch takes them.
            clip: largest gradient norm per block; None for no clipping.
            decay: matrices for no weight decay on biases and norms, as of `Optimizer`.
            groups: as of `Optimizer`.

        Raises:
            InputError: it cannot be called, or is a ready optimiser (which would be that of all blocks).
        """
        if isinstance(factory, torch.optim.Optimizer):
            kind = type(factory).__name__
            raise InputError(
                f"optimizer is a ready {kind}, and every block builds its own: give the class, torch.optim.{kind}, or "
                f"functools.partial(torch.optim.{kind}, lr=0.1)."
            )
        if not callable(factory):
            raise InputError(
                "optimizer must be sgd(), adam() or adamw(), a torch.optim class, or a function that makes an "
                f"optimiser of a list of parameters, not {shown(factory)}."
            )
        return cls("custom", clip=clip, factory=factory, decay=decay, groups=groups)

    def build(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        names: Sequence[str] | None = None,
        normed: bool = False,
        own: Sequence[bool] | None = None,
    ) -> torch.optim.Optimizer:
        """A torch optimiser over one block's parameters.

        Args:
            parameters: what it trains.
            names: of the parameters, for `groups`; default: their numbers.
            normed: whether the block has a LayerNorm or an RMSNorm, for the decay auto.
            own: of a hidden block, which of them are the block's own, for `lower`; None for the last block.

        Raises:
            InputError: the factory fails, gives no optimiser, one of other parameters, or one that needs a closure; or
                `groups` gives no settings.
        """
        held = list(parameters)
        matrices = self.decay == "matrices" or (self.decay == "auto" and normed and self.name == "adamw")
        given: list[Any] = held
        slow = own is not None and self.lower != 1
        if matrices or slow or self.groups is not None:
            named = list(zip(names or map(str, range(len(held))), held, strict=True))
            slower = [p for p, is_own in zip(held, own, strict=True) if is_own] if own is not None and slow else []
            rates = {id(p): self.lower * self.lr for p in slower}
            given = parameter_groups(named, self.groups, matrices=matrices, rates=rates)
        made = self._built(given) if self.factory is None else made_optimizer(self.factory, given, held)
        if self.groups is not None:
            _check_groups(given, made)
        return made

    def _built(self, parameters: list[Any]) -> torch.optim.Optimizer:
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


def sgd(
    lr: float = 0.1,
    *,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    clip: float | None = None,
    decay: DecayName = "auto",
    groups: Groups | None = None,
    lower: float = 1.0,
) -> Optimizer:
    """Stochastic gradient descent with Nesterov momentum.

    Arguments and errors as of `Optimizer`.
    """
    return Optimizer("sgd", lr, momentum, weight_decay, clip, decay=decay, groups=groups, lower=lower)


def adam(
    lr: float = 1e-3,
    *,
    weight_decay: float = 0.0,
    clip: float | None = None,
    decay: DecayName = "auto",
    groups: Groups | None = None,
    lower: float = 1.0,
) -> Optimizer:
    """Adam with torch's default moments.

    Arguments and errors as of `Optimizer`.
    """
    return Optimizer("adam", lr, 0.9, weight_decay, clip, decay=decay, groups=groups, lower=lower)


def adamw(
    lr: float = 1e-3,
    *,
    weight_decay: float = 0.01,
    clip: float | None = None,
    decay: DecayName = "auto",
    groups: Groups | None = None,
    lower: float = 1.0,
) -> Optimizer:
    """Adam with decoupled weight decay.

    Arguments and errors as of `Optimizer`.
    """
    return Optimizer("adamw", lr, 0.9, weight_decay, clip, decay=decay, groups=groups, lower=lower)


def as_optimizer(given: Optimizer | OptimizerFactory) -> Optimizer:
    """An `Optimizer` as it is, a factory as one.

    Raises:
        InputError: it is neither.
    """
    return given if isinstance(given, Optimizer) else Optimizer.of(given)


def _check_groups(given: list[dict[str, Any]], made: torch.optim.Optimizer) -> None:
    """torch takes any name and any number in a group."""
    for name, value in [(name, value) for group in given for name, value in group.items() if name != "params"]:
        if name not in made.defaults:
            raise unknown("setting of groups", name, made.defaults)
        if name in RANGES:
            check_range(f"{name} of groups", value, RANGES[name])
