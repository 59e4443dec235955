"""Units with one of several classes: a group of features is one unit."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from blocklocal._common.errors import InputError
from blocklocal.families.base import Family, register
from blocklocal.families.numerics import difference, exp_remainder

FAR = 4.0  # from this log ratio on, e^c - 1 - c is a plain difference
LOG1P_LIMIT = 1.0  # above this size of a weighted exponential, and below -SMALLEST, log1p gives way to logsumexp
SMALLEST = 0.5


@final
@dataclass(frozen=True)
class Categorical(Family):
    """z is one of C classes, T(z) its one-hot vector, A(φ) = logsumexp φ, P = C. Natural parameter: the logits.

    Attributes:
        size: the number of classes that ``group`` puts into one unit; the other methods read C off the tensor.

    Raises:
        InputError: the size is below 2.
    """

    name: ClassVar[str] = "categorical"
    event_dims: ClassVar[int] = 1

    size: int = 2

    def __post_init__(self) -> None:
        if not isinstance(self.size, int) or isinstance(self.size, bool) or self.size < 2:
            raise InputError(
                f"size, the classes of a categorical unit, must be a whole number from 2, not {self.size!r}."
            )

    def log_partition(self, phi: Tensor) -> Tensor:
        return torch.logsumexp(phi, -1)

    def mean(self, phi: Tensor) -> Tensor:
        return torch.softmax(phi, -1)

    def variance(self, phi: Tensor) -> Tensor:
        """diag(μ) - μμᵀ; its diagonal is μ_i Σ_{j≠i} μ_j, which keeps its digits where one class is certain."""
        p = torch.softmax(phi, -1)
        others = 1 - torch.eye(p.shape[-1], dtype=p.dtype, device=p.device)
        off = p.unsqueeze(-1) * p.unsqueeze(-2) * others
        return torch.diag_embed(off.sum(-1)) - off

    def evidence(self, phi: Tensor, b: Tensor) -> Tensor:
        """log Σ μ_i e^{b_i}. Error below 1e-6 of Σ μ_i |b_i| or of the result, whichever is larger."""
        high, lost = difference(phi, phi.amax(-1, keepdim=True).detach())
        before = torch.logsumexp(high, -1, keepdim=True)
        lifted = (high + b) + lost  # a large message can lift a class to where the lost digits count
        moved = lifted - before
        up = -torch.exp(moved.clamp(max=LOG1P_LIMIT)) * torch.expm1(-b.clamp(min=0))
        down = torch.exp(high - before) * torch.expm1(b.clamp(max=0))
        u = torch.where(b > 0, up, down).sum(-1)  # Σ μ_i (e^{b_i} - 1), no term with a cancelling difference
        near = (u > -SMALLEST) & (moved.amax(-1) < LOG1P_LIMIT)
        far = torch.logsumexp(lifted, -1) - before.squeeze(-1)
        return torch.where(near, torch.log1p(u.clamp(min=-SMALLEST)), far)

    def kl(self, gamma: Tensor, phi: Tensor) -> Tensor:
        """Relative error below 1e-5, for close and for saturated parameters too."""
        gamma, phi = torch.broadcast_tensors(gamma, phi)
        log_p, log_q = torch.log_softmax(gamma, -1), torch.log_softmax(phi, -1)
        excess, top = _excess(gamma, phi, log_p)
        near = (excess < LOG1P_LIMIT) & (top < LOG1P_LIMIT)
        far = (torch.exp(log_p) * (log_p - log_q)).sum(-1)
        return torch.where(near, torch.log1p(excess.clamp(0, LOG1P_LIMIT)), far)

    def sample(self, phi: Tensor, generator: torch.Generator) -> Tensor:
        """One-hot vectors, ``[..., C]``."""
        p = torch.softmax(phi, -1)
        index = torch.multinomial(p.reshape(-1, p.shape[-1]), 1, generator=generator).reshape(p.shape[:-1])
        return torch.nn.functional.one_hot(index, p.shape[-1]).to(phi.dtype)

    def log_base(self, z: Tensor) -> Tensor:
        return torch.zeros_like(z[..., 0])

    def _event_size(self) -> int:
        return self.size


def _excess(gamma: Tensor, phi: Tensor, log_p: Tensor) -> tuple[Tensor, Tensor]:
    """e^KL - 1 = Σ p_i (e^{c_i} - 1 - c_i), which has no negative terms, and the maximum of log(p_i e^{c_i}).

    c is φ - γ less its mean under p. It is first taken relative to the likeliest class, whose p may round to 1.
    """
    likeliest = gamma.argmax(-1, keepdim=True)
    p = torch.softmax(gamma, -1)
    c, lost = difference(phi, gamma)
    c = (c - c.gather(-1, likeliest)) + (lost - lost.gather(-1, likeliest))
    average = (p * c).sum(-1, keepdim=True)
    c = c - average
    moved = (phi - phi.gather(-1, likeliest)) + (log_p.gather(-1, likeliest) - average)
    plain = torch.exp(moved.clamp(max=LOG1P_LIMIT)) - p * (1 + c)
    return torch.where(c < FAR, p * exp_remainder(c.clamp(max=FAR)), plain).sum(-1), moved.amax(-1)


register(Categorical())
