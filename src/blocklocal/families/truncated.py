"""The standard normal with natural parameter x, restricted to z ≥ 0: density ∝ exp(xz - z²/2).

Source: ours (method, section 1); the tail uses Laplace's continued fraction of the Mills ratio. Everything is arranged
so that no digits are lost for x → -∞, where the mean is ~1/|x| and the variance ~1/x².
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from blocklocal.families.numerics import gauss_legendre

TAIL = -2.0  # below, the continued fraction; above, erfcx, which there still has all digits the mean needs
LEVELS = 20  # of the fraction: relative error below 2e-8 (mean) and 2e-7 (variance) at TAIL, less beyond it
UPPER = 12.0  # the hazard beyond is below 1e-31; the cap keeps erfcx of the other sign inside the float range
NODES = 4
ROOT_HALF = math.sqrt(0.5)
LOG_ROOT_2PI = 0.5 * math.log(2 * math.pi)


class Moments(NamedTuple):
    """Hazard λ(x) = pdf(x)/cdf(x), mean x + λ and variance 1 - λ·mean, each of the shape of x."""

    hazard: Tensor
    mean: Tensor
    variance: Tensor


def moments(x: Tensor) -> Moments:
    """Relative errors in float32: mean 2e-6, variance 1e-5."""
    body_hazard = math.sqrt(2 / math.pi) / torch.special.erfcx(-ROOT_HALF * x.clamp(TAIL, UPPER))
    body_mean = x.clamp(min=TAIL) + body_hazard
    tail_mean, tail_variance = _tail(-x.clamp(max=TAIL))
    tail = x < TAIL
    return Moments(
        torch.where(tail, tail_mean - x.clamp(max=TAIL), body_hazard),
        torch.where(tail, tail_mean, body_mean),
        torch.where(tail, tail_variance, 1 - body_hazard * body_mean),
    )


def _tail(t: Tensor) -> tuple[Tensor, Tensor]:
    """Mean 1/(t + 2/(t + 3/(t + 4/...))) and variance at x = -t; the rest of the fraction is nearly constant."""
    fraction = 0.5 * (t + torch.sqrt(t * t + 4 * (LEVELS + 1)))
    for level in range(LEVELS, 2, -1):
        fraction = t + level / fraction
    mean = 1 / (t + 2 / fraction)
    return mean, mean * (2 / fraction - mean)


def log_rest(x: Tensor) -> Tensor:
    """r(x) = log ∫₀^∞ exp(xz - z²/2) dz - ½ max(x, 0)², between -log|x| on the left and log √(2π) on the right."""
    right = LOG_ROOT_2PI + torch.log1p(-0.5 * torch.erfc(ROOT_HALF * x.clamp(min=0)))
    return torch.where(x < 0, -torch.log(moments(x.clamp(max=0)).hazard), right)


def log_rest_step(x: Tensor, moved: Tensor, step: Tensor) -> Tensor:
    """r(moved) - r(x) from the ratio of hazards, meant for steps that are not small; both are negative.

    Args:
        step: moved - x before rounding: far below zero the rounding of ``moved`` is as large as a step of one.
    """
    up = moved > x
    low, high = torch.where(up, x, moved), torch.where(up, moved, x)
    below, above = moments(low.clamp(max=0)), moments(high.clamp(max=0))
    ratio = torch.log1p((step.abs() + below.mean - above.mean).clamp(min=0) / above.hazard)
    change = torch.where(high < 0, ratio, log_rest(high) - log_rest(low))
    return torch.where(up, change, -change)


def log_partition_taylor(x: Tensor, step: Tensor) -> Tensor:
    """log-partition at x + step less that at x, from the first four cumulants at x: for |step| ≤ 1/8."""
    hazard, mean, variance = moments(x)
    third = hazard * (mean * mean - variance)
    fourth = hazard * (3 * mean * variance - mean**3 - third)
    return step * (mean + step * (variance / 2 + step * (third / 6 + step * fourth / 24)))


def divergence_integral(x: Tensor, step: Tensor) -> Tensor:
    """step² ∫₀¹ (1 - t) variance(x + t·step) dt: the Bregman divergence as a sum without negative terms."""
    total = torch.zeros_like(x)
    for node, weight in gauss_legendre(NODES):
        total = total + weight * (1 - node) * moments(x + node * step).variance
    return step * step * total
