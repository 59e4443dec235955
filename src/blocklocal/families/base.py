"""What every exponential family offers, and the registry that finds a family by name.

A family stands for densities ``h(z) exp(<T(z), φ> - A(φ))`` of the latent units (paper: Kappel et al., arXiv
2305.14974, Eq. 3 and 6). Families are small immutable values; their methods are pure functions of tensors.

Shapes: ``[...]`` is one number per latent unit. Vector families keep the natural parameter of one unit in one trailing
dimension of size P (``event_dims = 1``), scalar families have no such dimension (``event_dims = 0``).

Accuracy: the figures in the docstrings are relative errors in float32, measured against mpmath for natural parameters
and messages up to ±1e4, beside an absolute error of 1e-37, some smallest normal numbers.
"""

import dataclasses
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from blocklocal._common.errors import InputError, unknown
from blocklocal._common.registry import Registry


@dataclass(frozen=True)
class Family(ABC):
    """An exponential family of latent units. Subclasses are final.

    Attributes:
        event_dims: 1 where the natural parameter of a unit has a dimension of its own, the last; else 0.
        domain: the natural parameters that are allowed, in words.
        remedy: what to do about others, in words.
    """

    name: ClassVar[str]
    event_dims: ClassVar[int] = 0
    domain: ClassVar[str] = "all finite numbers"
    remedy: ClassVar[str] = "look for a diverging loss, or normalise what feeds these units"

    @abstractmethod
    def log_partition(self, phi: Tensor) -> Tensor:
        """A(φ), the logarithm of the normaliser (paper, Eq. 3): ``[..., *event] -> [...]``."""

    @abstractmethod
    def mean(self, phi: Tensor) -> Tensor:
        """μ(φ) = A'(φ), the mean of T(z): same shape as ``phi``."""

    @abstractmethod
    def variance(self, phi: Tensor) -> Tensor:
        """σ²(φ) = A''(φ): same shape for scalar families, covariance of T(z) ``[..., P, P]`` for vector families."""

    @abstractmethod
    def kl(self, gamma: Tensor, phi: Tensor) -> Tensor:
        """D_KL(γ ‖ φ) per unit, ``[...]``: the local loss behind Eq. 7, <γ-φ, μ(γ)> - A(γ) + A(φ), in nats."""

    @abstractmethod
    def evidence(self, phi: Tensor, b: Tensor) -> Tensor:
        """A(φ+b) - A(φ) = log E_φ[exp<T(z), b>] per unit, ``[...]``, in nats; ``phi`` and ``b`` broadcast."""

    @abstractmethod
    def sample(self, phi: Tensor, generator: torch.Generator) -> Tensor:
        """One draw z per unit, for Monte Carlo checks; not differentiable."""

    @abstractmethod
    def log_base(self, z: Tensor) -> Tensor:
        """log h(z) per unit, ``[...]``."""

    def statistics(self, z: Tensor) -> Tensor:
        """T(z), in the shape of the natural parameter."""
        return z

    def product(self, phi: Tensor, b: Tensor) -> Tensor:
        """The natural parameter of the product of densities, φ + b (paper, Eq. 9, with its m inside ``b``)."""
        return phi + b

    def evidence_second_order(self, phi: Tensor, b: Tensor) -> Tensor:
        """<μ(φ), b> + ½ bᵀ A''(φ) b per unit, ``[...]``: the evidence up to an error of third order in ``b``."""
        if self.event_dims == 0:
            return b * (self.mean(phi) + 0.5 * self.variance(phi) * b)
        spread = (self.variance(phi) @ b.unsqueeze(-1)).squeeze(-1)
        return (b * (self.mean(phi) + 0.5 * spread)).sum(-1)

    def natural(self, raw: Tensor) -> Tensor:
        """An unconstrained tensor as a natural parameter. The identity unless the domain is a half line."""
        return raw

    def message(self, raw: Tensor) -> Tensor:
        """An unconstrained tensor as a message ``b`` that keeps φ + b in the domain for every φ in it."""
        return raw

    def group(self, a: Tensor) -> Tensor:
        """Features as units: ``[..., D] -> [..., D / P, P]`` for vector families, neighbours together; else unchanged.

        Raises:
            InputError: D is not a multiple of P.
        """
        size = self._event_size()
        if size is None:
            return a
        features = a.shape[-1] if a.dim() else 1
        if a.dim() == 0 or features % size:
            raise InputError(
                f"{self.name} units take {size} features each, and {features} features is not a multiple of it: "
                f"use a layer whose width is a multiple of {size}, or another family."
            )
        return a.unflatten(-1, (features // size, size))

    def check(self, phi: Tensor, what: str = "natural parameter") -> None:
        """Refuse a natural parameter that is not finite or outside the domain. Waits for the device: not for hot paths.

        Raises:
            InputError: names the family, its domain, the worst value and what to do.
        """
        self._check_shape(phi, what)
        if not bool(torch.isfinite(phi).all()):
            bad = phi[~torch.isfinite(phi)]
            raise self._outside(what, f"{bad.numel()} of {phi.numel()} values are not finite, such as {bad[0].item()}")
        bounded, bound = self._bounded(phi), self._bound(phi.dtype)
        if bounded.numel() and bounded.max().item() >= bound:
            raise self._outside(what, f"the largest value is {bounded.max().item():g}")

    def _check_shape(self, phi: Tensor, what: str) -> None:
        if not phi.is_floating_point():
            raise InputError(f"the {what} of {self.name} units must be a floating point tensor, not {phi.dtype}.")
        if self.event_dims and phi.dim() == 0:
            raise InputError(f"the {what} of {self.name} units needs a last dimension: use group() on the features.")

    def _outside(self, what: str, given: str) -> InputError:
        return InputError(
            f"the {what} of {self.name} units must be in {self.domain}: {given}. What helps: {self.remedy}."
        )

    def _event_size(self) -> int | None:
        """P, or None for a scalar family."""
        return None

    def _bounded(self, phi: Tensor) -> Tensor:
        """The components of ``phi`` that must lie below ``_bound``."""
        return phi

    def _bound(self, dtype: torch.dtype) -> float:
        return math.inf


FAMILIES: Registry[Family] = Registry("family")
"""Every family with its default parameters, by name."""


def register(default: Family) -> None:
    """Make a family known under its name; ``default`` carries the default parameters."""
    FAMILIES.add(default.name, default)


def family(name: str | Family, **parameters: object) -> Family:
    """The family of that name with the given parameters, such as ``family("rectified", temperature=0.1)``.

    Args:
        name: a name of `FAMILIES`; an instance is returned as it is.
        parameters: the family's own fields.

    Raises:
        InputError: the name or a parameter is unknown, or parameters are given beside an instance.
    """
    if isinstance(name, Family):
        if parameters:
            raise InputError(f"parameters {sorted(parameters)} beside a ready family {name!r}: give its name instead.")
        return name
    default = FAMILIES.get(name)
    known = [field.name for field in dataclasses.fields(default)]
    for parameter in parameters:
        if not known:
            raise InputError(f"the family {name!r} has no parameters, but {parameter!r} was given: leave it out.")
        if parameter not in known:
            raise unknown(f"parameter of the family {name!r}", parameter, known)
    return dataclasses.replace(default, **parameters)
