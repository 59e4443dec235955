"""Binary units, the family of the paper's experiments.

Branches are joined by ``torch.lerp`` with weights 0 and 1, which is exact: on CPUs ``torch.where`` is some twenty times
slower (torch 2.13), and these functions run on every activation of every step.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from blocklocal.families.base import Family, register
from blocklocal.families.numerics import in_chunks

KL_SERIES = 0.35  # below this |φ - γ| the divergence is summed from its cumulants
LOG1P_RANGE = (-1.0, 4.0)  # messages for which log1p(μ (e^b - 1)) neither cancels nor leaves the float range
LINEAR = 40.0  # softplus(x) - x is below a float64 rounding from here on


@final
@dataclass(frozen=True)
class Bernoulli(Family):
    """z in {0, 1}, T(z) = z, A(φ) = softplus(φ), mean sigmoid(φ). Natural parameter: the log odds."""

    name: ClassVar[str] = "bernoulli"

    def log_partition(self, phi: Tensor) -> Tensor:
        return softplus(phi, threshold=LINEAR)

    def mean(self, phi: Tensor) -> Tensor:
        return torch.sigmoid(phi)

    def variance(self, phi: Tensor) -> Tensor:
        return torch.sigmoid(phi) * torch.sigmoid(-phi)

    def evidence(self, phi: Tensor, b: Tensor) -> Tensor:
        """log(1 - μ + μ e^b). Relative error below 1e-5.

        What is computed per pair of ``phi`` and ``b`` is kept small, because the two usually broadcast.
        """
        low, high = LOG1P_RANGE
        near = torch.log1p(torch.sigmoid(phi) * torch.expm1(b.clamp(low, high)))
        far = torch.logaddexp(logsigmoid(-phi), logsigmoid(phi) + b)
        return torch.lerp(far, near, ((b > low) & (b < high)).to(far.dtype))

    def kl(self, gamma: Tensor, phi: Tensor) -> Tensor:
        """Relative error below 1e-5, for close and for saturated parameters too.

        Its gradient is written out (paper, Eq. 7): autograd would keep some twenty tensors of the size of ``gamma``.
        """
        gamma, phi = torch.broadcast_tensors(gamma, phi)
        return _Divergence.apply(gamma, phi)

    def sample(self, phi: Tensor, generator: torch.Generator) -> Tensor:
        return torch.bernoulli(self.mean(phi), generator=generator)

    def log_base(self, z: Tensor) -> Tensor:
        return torch.zeros_like(z)


class _Divergence(torch.autograd.Function):
    """D(γ ‖ φ) with its gradient written out (Eq. 7)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(gamma: Tensor, phi: Tensor) -> Tensor:
        return in_chunks(_divergence, gamma, phi)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor]:
        (grad,) = grad_outputs
        gamma, phi = ctx.saved_tensors
        return in_chunks(_to_gamma, grad, gamma, phi), in_chunks(_to_phi, grad, gamma, phi)


def _to_gamma(grad: Tensor, gamma: Tensor, phi: Tensor) -> Tensor:
    return grad * torch.sigmoid(gamma) * torch.sigmoid(-gamma) * (gamma - phi)


def _to_phi(grad: Tensor, gamma: Tensor, phi: Tensor) -> Tensor:
    return grad * (torch.sigmoid(phi) - torch.sigmoid(gamma))


def _divergence(gamma: Tensor, phi: Tensor) -> Tensor:
    """D(γ ‖ φ) = D(-γ ‖ -φ), computed for the sign with γ ≤ 0: the mean is at most ½ and nothing cancels against 1."""
    sign = torch.copysign(torch.ones_like(gamma), -gamma)
    gamma, phi = sign * gamma, sign * phi
    c = phi - gamma
    p = torch.sigmoid(gamma)
    far = softplus(phi, threshold=LINEAR) - softplus(gamma) - p * c
    close = (c.abs() < KL_SERIES).to(far.dtype)
    return torch.lerp(far, _cumulant_series(p, c.clamp(-KL_SERIES, KL_SERIES)), close)


def _cumulant_series(p: Tensor, c: Tensor) -> Tensor:
    """Σ_{n=2..7} κ_n cⁿ / n! of a Bernoulli variable of mean ``p``; the rest is below 1e-6 relative for |c| ≤ 0.35."""
    w = p * (1 - p)
    square = c * c
    even = ((w / 6 - 1 / 24) * w + 1 / 720) * square - w / 4 + 1 / 24
    odd = ((w / 14 - 1 / 84) * w + 1 / 5040) * square - w / 10 + 1 / 120
    odd = torch.addcmul(c / 6, c * square, odd) * (1 - 2 * p)
    return w * square * (0.5 + torch.addcmul(odd, square, even))


register(Bernoulli())
