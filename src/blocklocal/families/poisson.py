"""Units that count."""

import math
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from blocklocal.families.base import Family, register
from blocklocal.families.numerics import exp_remainder

FAR = 4.0  # from this φ - γ on the divergence is a plain difference of exponentials, which cannot cancel any more


@final
@dataclass(frozen=True)
class Poisson(Family):
    """z in {0, 1, 2, ...}, T(z) = z, A(φ) = e^φ. Natural parameter: the log rate.

    e^φ leaves the float range at φ ≈ 88 in float32 and bfloat16 (709 in float64, 11 in float16): ``check`` refuses
    more, for φ and for φ + b. ``natural`` and ``message`` are the identity and do not enforce this bound.
    """

    name: ClassVar[str] = "poisson"
    domain: ClassVar[str] = "the numbers below the one where exp overflows (88 in float32)"
    remedy: ClassVar[str] = "scale the features or the message down: this is the logarithm of a rate"

    def log_partition(self, phi: Tensor) -> Tensor:
        return torch.exp(phi)

    def mean(self, phi: Tensor) -> Tensor:
        return torch.exp(phi)

    def variance(self, phi: Tensor) -> Tensor:
        return torch.exp(phi)

    def evidence(self, phi: Tensor, b: Tensor) -> Tensor:
        """e^φ (e^b - 1). Relative error below 1e-5."""
        up = -torch.exp(phi + b.clamp(min=0)) * torch.expm1(-b.clamp(min=0))  # finite wherever e^(φ+b) is
        down = torch.exp(phi) * torch.expm1(b.clamp(max=0))
        return torch.where(b > 0, up, down)

    def kl(self, gamma: Tensor, phi: Tensor) -> Tensor:
        """e^γ (e^c - 1 - c) with c = φ - γ. Relative error below 1e-5; overflows from |c| e^γ ≈ 3e38 on."""
        c = phi - gamma
        rate = torch.exp(gamma)
        near = rate * exp_remainder(c.clamp(max=FAR))
        return torch.where(c < FAR, near, torch.exp(phi) - rate * (1 + c))

    def sample(self, phi: Tensor, generator: torch.Generator) -> Tensor:
        return torch.poisson(torch.exp(phi), generator=generator)

    def log_base(self, z: Tensor) -> Tensor:
        return -torch.lgamma(z + 1)

    def _bound(self, dtype: torch.dtype) -> float:
        return float(math.floor(math.log(torch.finfo(dtype).max)))


register(Poisson())
