"""Units that wait: exponential distributions."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor
from torch.nn.functional import softplus

from blocklocal.families.base import Family, register
from blocklocal.families.numerics import log1p_remainder, log_ratio


@final
@dataclass(frozen=True)
class Exponential(Family):
    """z ≥ 0, T(z) = z, A(φ) = -log(-φ) with φ < 0. Natural parameter: minus the rate, in 1/(unit of z)."""

    name: ClassVar[str] = "exponential"
    domain: ClassVar[str] = "the numbers below 0 (minus a rate)"
    remedy: ClassVar[str] = "build it with natural(), and messages with message(), which keep it below 0"

    def log_partition(self, phi: Tensor) -> Tensor:
        return -torch.log(-phi)

    def mean(self, phi: Tensor) -> Tensor:
        return -1 / phi

    def variance(self, phi: Tensor) -> Tensor:
        return 1 / (phi * phi)

    def evidence(self, phi: Tensor, b: Tensor) -> Tensor:
        """-log(1 + b/φ). Relative error below 1e-6."""
        return -log_ratio(b / phi, (phi + b) / phi)

    def kl(self, gamma: Tensor, phi: Tensor) -> Tensor:
        """d - log(1 + d) with d = (φ - γ)/γ. Relative error below 1e-6."""
        return log1p_remainder((phi - gamma) / gamma, phi / gamma)

    def natural(self, raw: Tensor) -> Tensor:
        """-softplus(raw) - ε, with ε one rounding of 1: the mean stays below 1/ε."""
        return -softplus(raw) - torch.finfo(raw.dtype).eps

    def message(self, raw: Tensor) -> Tensor:
        """-softplus(raw): a message can only shorten the wait."""
        return -softplus(raw)

    def sample(self, phi: Tensor, generator: torch.Generator) -> Tensor:
        return torch.empty_like(phi).exponential_(generator=generator) / -phi

    def log_base(self, z: Tensor) -> Tensor:
        return torch.zeros_like(z)

    def _bound(self, dtype: torch.dtype) -> float:
        return 0.0


register(Exponential())
