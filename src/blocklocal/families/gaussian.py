"""Gaussian units: unit variance (residual streams), and unknown variance (a mean and a precision channel)."""

import math
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor
from torch.nn.functional import softplus

from blocklocal._common.errors import InputError
from blocklocal.families.base import Family, register
from blocklocal.families.numerics import log1p_remainder, log_ratio

LOG_ROOT_2PI = 0.5 * math.log(2 * math.pi)


@final
@dataclass(frozen=True)
class Gaussian(Family):
    """z real with variance 1, T(z) = z, A(φ) = φ²/2. Natural parameter: the mean. Errors: a few roundings."""

    name: ClassVar[str] = "gaussian"

    def log_partition(self, phi: Tensor) -> Tensor:
        return 0.5 * phi * phi

    def mean(self, phi: Tensor) -> Tensor:
        return phi

    def variance(self, phi: Tensor) -> Tensor:
        return torch.ones_like(phi)

    def evidence(self, phi: Tensor, b: Tensor) -> Tensor:
        """φb + b²/2, as a product: relative error below 1e-6 even where it crosses zero."""
        return b * torch.add(phi, b, alpha=0.5)

    def kl(self, gamma: Tensor, phi: Tensor) -> Tensor:
        """(γ - φ)²/2. Relative error below 1e-6."""
        difference = gamma - phi
        return 0.5 * difference * difference

    def sample(self, phi: Tensor, generator: torch.Generator) -> Tensor:
        return phi + _normal(phi, generator)

    def log_base(self, z: Tensor) -> Tensor:
        return -0.5 * z * z - LOG_ROOT_2PI


@final
@dataclass(frozen=True)
class GaussianVariance(Family):
    """z real with mean m and variance v, T(z) = (z, z²), P = 2 with φ = (m/v, -1/(2v)).

    A(φ) = -η₁²/(4η₂) - ½ log(-2η₂) with η₂ < 0. Mean and variance have a relative error below 1e-5.
    """

    name: ClassVar[str] = "gaussian-variance"
    event_dims: ClassVar[int] = 1
    domain: ClassVar[str] = "pairs (η₁, η₂) with η₂ < 0 (η₂ = -1/(2·variance))"
    remedy: ClassVar[str] = "build it with natural(), and messages with message(), which keep η₂ below 0"

    def log_partition(self, phi: Tensor) -> Tensor:
        eta, rate = phi.unbind(-1)
        return -eta * eta / (4 * rate) - 0.5 * torch.log(-2 * rate)

    def mean(self, phi: Tensor) -> Tensor:
        m, v = _moments(phi)
        return torch.stack((m, m * m + v), -1)

    def variance(self, phi: Tensor) -> Tensor:
        m, v = _moments(phi)
        cross = 2 * m * v
        rows = (torch.stack((v, cross), -1), torch.stack((cross, 2 * v * (2 * m * m + v)), -1))
        return torch.stack(rows, -2)

    def evidence(self, phi: Tensor, b: Tensor) -> Tensor:
        """Error below 1e-6 of the sum of the sizes of its terms m·b₁, v·b₁²/2, m²·b₂ (times v'/v) and ½ log(v'/v).

        The terms have different signs, so that near a zero crossing only this absolute accuracy is left.
        """
        m, v = _moments(phi)
        rate, (b_eta, b_rate) = phi[..., 1], b.unbind(-1)
        ratio = (rate + b_rate) / rate
        quadratic = b_eta * (m + 0.5 * v * b_eta) + m * m * b_rate
        return quadratic / ratio - 0.5 * log_ratio(b_rate / rate, ratio)

    def kl(self, gamma: Tensor, phi: Tensor) -> Tensor:
        """½(r - 1 - log r) + (m_γ - m_φ)²/(2 v_φ) with r = v_γ/v_φ.

        Relative error below 1e-5 while |m|/√v stays below 1e4; beyond, a shared large mean costs (1e-7 |m|/√v)².
        """
        m, _ = _moments(phi)
        _, v = _moments(gamma)
        eta, rate = (gamma - phi).unbind(-1)
        shift = v * (eta + 2 * m * rate)  # m_γ - m_φ without the difference of two means
        spread = log1p_remainder(-rate / gamma[..., 1], phi[..., 1] / gamma[..., 1])
        return 0.5 * spread - phi[..., 1] * shift * shift

    def natural(self, raw: Tensor) -> Tensor:
        """(η₁, η₂) = (raw₁, -softplus(raw₂) - ε), with ε one rounding of 1: the variance stays below 1/(2ε)."""
        eta, rate = raw.unbind(-1)
        return torch.stack((eta, -softplus(rate) - torch.finfo(raw.dtype).eps), -1)

    def message(self, raw: Tensor) -> Tensor:
        """(raw₁, -softplus(raw₂)): a message can only add precision."""
        eta, rate = raw.unbind(-1)
        return torch.stack((eta, -softplus(rate)), -1)

    def statistics(self, z: Tensor) -> Tensor:
        return torch.stack((z, z * z), -1)

    def sample(self, phi: Tensor, generator: torch.Generator) -> Tensor:
        m, v = _moments(phi)
        return m + torch.sqrt(v) * _normal(m, generator)

    def log_base(self, z: Tensor) -> Tensor:
        return torch.full_like(z, -LOG_ROOT_2PI)

    def _event_size(self) -> int:
        return 2

    def _check_shape(self, phi: Tensor, what: str) -> None:
        super()._check_shape(phi, what)
        if phi.shape[-1] != 2:
            raise InputError(
                f"the {what} of {self.name} units must have shape [..., 2], not {list(phi.shape)}: use group()."
            )

    def _bounded(self, phi: Tensor) -> Tensor:
        return phi[..., 1]

    def _bound(self, dtype: torch.dtype) -> float:
        return 0.0


def _moments(phi: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of z."""
    eta, rate = phi.unbind(-1)
    v = -0.5 / rate
    return eta * v, v


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=like.dtype, device=like.device)


register(Gaussian())
register(GaussianVariance())
