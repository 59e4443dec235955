"""Random messages in every family's domain, and pieces of the method's formulas written out once more for the tests."""

import torch
from torch import Tensor

from blocklocal.families import Family, family

SCALAR = [family("bernoulli"), family("gaussian"), family("poisson"), family("exponential")]
SCALAR += [family("rectified"), family("rectified", temperature=0.5)]
CLOSE = {"rtol": 1e-5, "atol": 1e-8}  # float64; rectified units at a temperature are accurate to 1e-5


def forward_message(fam: Family, batch: int, positions: int, units: int, seed: int = 0) -> Tensor:
    """φ [B, P, U, …] in the domain, float64, with a gradient."""
    return fam.natural(_draw(fam, (batch, positions, units), seed)).requires_grad_()


def backward_message(fam: Family, rows: int, positions: int, units: int, size: float = 1.0, seed: int = 1) -> Tensor:
    """A table [R, P', U, …] that keeps φ + b in the domain, float64, with a gradient. size: of its raw values."""
    return fam.message(size * _draw(fam, (rows, positions, units), seed)).detach().requires_grad_()


def _draw(fam: Family, shape: tuple[int, ...], seed: int) -> Tensor:
    event = (3 if fam.name == "categorical" else 2,) * fam.event_dims
    return torch.randn(*shape, *event, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def spread(fam: Family, phi: Tensor, b: Tensor) -> Tensor:
    """σ²(φ)·b, with the covariance matrix of T(z) for vector families."""
    if fam.event_dims == 0:
        return fam.variance(phi) * b
    return torch.einsum("...ij,...j->...i", fam.variance(phi), b)


def inner(fam: Family, a: Tensor, b: Tensor) -> Tensor:
    """⟨a, b⟩ per unit."""
    return (a * b).sum(-1) if fam.event_dims else a * b


def gradients(loss: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, tensors, retain_graph=True)


def configurations(units: int) -> Tensor:
    """All 2ᵁ states of U binary units, [2ᵁ, U], float64."""
    number = torch.arange(2**units)
    return ((number.unsqueeze(1) >> torch.arange(units)) & 1).double()
