"""Independent answers for the batteries over families: 60-digit A and mean, supports to integrate over, test points."""

import itertools

import mpmath
import pytest
import torch
from mpmath import mpf

from blocklocal.families import FAMILIES, Family, family

mpmath.mp.dps = 60
RELATIVE, ABSOLUTE = 1e-5, 1e-37  # errors that the docstrings state, in float32
VARIANTS = {"rectified": [{"temperature": t} for t in (0.0, 0.01, 1.0, 9.0)], "categorical": [{"size": 3}]}
BATTERY = [family(name, **parameters) for name in FAMILIES.names() for parameters in VARIANTS.get(name, [{}])]
SAMPLED = [f for f in BATTERY if getattr(f, "temperature", 1.0) > 0]
every_family = pytest.mark.parametrize("fam", BATTERY, ids=repr)
every_density = pytest.mark.parametrize("fam", SAMPLED, ids=repr)


def rectified_oracle(tau: float):
    if tau == 0:
        return lambda f: max(f[0], 0) ** 2 / 2, lambda f: [max(f[0], mpf(0))]
    tau = mpf(tau)

    def log_partition(f):
        y = -f[0] / mpmath.sqrt(2 * tau)
        return tau * (mpmath.log(mpmath.sqrt(mpmath.pi * tau / 2)) + mpmath.log(mpmath.erfc(y)) + y * y)

    def mean(f):
        x = f[0] / mpmath.sqrt(tau)
        hazard = mpmath.sqrt(2 / mpmath.pi) / (mpmath.erfc(-x / mpmath.sqrt(2)) * mpmath.exp(x * x / 2))
        return [f[0] + mpmath.sqrt(tau) * hazard]

    return log_partition, mean


def softmax_oracle(f):
    weights = [mpmath.exp(x - max(f)) for x in f]
    return [w / sum(weights) for w in weights]


def moments_oracle(f):
    v = -1 / (2 * f[1])
    return [f[0] * v, (f[0] * v) ** 2 + v]


ORACLES = {
    "bernoulli": lambda fam: (lambda f: mpmath.log1p(mpmath.exp(f[0])), lambda f: [1 / (1 + mpmath.exp(-f[0]))]),
    "gaussian": lambda fam: (lambda f: f[0] ** 2 / 2, lambda f: f),
    "poisson": lambda fam: (lambda f: mpmath.exp(f[0]), lambda f: [mpmath.exp(f[0])]),
    "exponential": lambda fam: (lambda f: -mpmath.log(-f[0]), lambda f: [-1 / f[0]]),
    "rectified": lambda fam: rectified_oracle(fam.temperature),
    "categorical": lambda fam: (
        lambda f: max(f) + mpmath.log(sum(mpmath.exp(x - max(f)) for x in f)),
        softmax_oracle,
    ),
    "gaussian-variance": lambda fam: (
        lambda f: -(f[0] ** 2) / (4 * f[1]) - mpmath.log(-2 * f[1]) / 2,
        moments_oracle,
    ),
}
fine_line = (torch.arange(400_000, dtype=torch.float64) + 0.5) * 1e-4
half_line = 10 * fine_line
SUPPORTS = {  # (z, weight of each z)
    "bernoulli": (torch.tensor([0.0, 1.0], dtype=torch.float64), 1.0),
    "poisson": (torch.arange(400, dtype=torch.float64), 1.0),
    "categorical": (torch.eye(3, dtype=torch.float64), 1.0),
    "exponential": (half_line, 1e-3),
    "rectified": (fine_line, 1e-4),
    "gaussian": (torch.cat((-half_line, half_line)), 1e-3),
    "gaussian-variance": (torch.cat((-half_line, half_line)), 1e-3),
}


def points(fam: Family, count: int = 40, seed: int = 0, dtype=torch.float64, spread: float = 1.5):
    """Natural parameters φ, γ and messages b of moderate size."""
    generator = torch.Generator().manual_seed(seed)
    event = (3 if fam.name == "categorical" else 2,) * fam.event_dims
    raw = spread * torch.randn(3, count, *event, generator=generator, dtype=torch.float64)
    return fam.natural(raw[0]).to(dtype), fam.natural(raw[1]).to(dtype), fam.message(raw[2]).to(dtype)


def inner(fam: Family, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a * b).sum(-1) if fam.event_dims else a * b


def grid(fam: Family) -> tuple[torch.Tensor, torch.Tensor]:
    """Pairs of φ and b in float32 up to ±1e4, dense where the branches of the closed forms meet."""
    sizes = [1e-6, 1e-3, 0.03, 0.12, 0.13, 0.34, 0.36, 0.9, 1.1, 2.1, 3.9, 4.1, 12.7, 31.3, 80.3, 86.7, 300.7, 1e4]
    if fam.event_dims == 0:
        both = [0.0, *sizes, *(-s for s in sizes)]
        phi, b = torch.tensor(list(itertools.product(both, both))).unbind(-1)
        if fam.name == "exponential":
            phi, b = torch.tensor(list(itertools.product([-s for s in sizes], repeat=2))).unbind(-1)
        keep = torch.ones_like(phi, dtype=torch.bool) if fam.name != "poisson" else (phi < 88) & (phi + b < 88)
        return phi[keep], b[keep]
    generator = torch.Generator().manual_seed(3)
    width = 3 if fam.name == "categorical" else 2
    draw = torch.rand(2, 2, 400, width, generator=generator)
    value = torch.where(draw[0] < 0.5, -1, 1) * 10 ** (10 * draw[1] - 6)
    if fam.name == "gaussian-variance":
        value[..., 1] = -(10 ** (8 * draw[1, ..., 1] - 4))
    else:
        value[1, ::4] = 3 * draw[0, 1, ::4] - value[0, ::4]  # messages that overturn the order of the classes
    return value[0], value[1]


def exact(x: torch.Tensor) -> list[list[mpf]]:
    return [[mpf(v) for v in row] for row in x.reshape(len(x), -1).tolist()]


def evidence_scale(fam: Family, f: list[mpf], b: list[mpf], value: mpf) -> mpf:
    """What the stated error is relative to: the value, and for vector families the sizes of its terms."""
    if fam.name == "categorical":
        return max(abs(value), sum(p * abs(x) for p, x in zip(softmax_oracle(f), b, strict=True)))
    if fam.name == "gaussian-variance":
        v, ratio = -1 / (2 * f[1]), (f[1] + b[1]) / f[1]
        m = f[0] * v
        return (abs(m * b[0]) + v * b[0] ** 2 / 2 + m * m * abs(b[1])) / ratio + abs(mpmath.log(ratio)) / 2
    return abs(value)


def worst_error(got: torch.Tensor, expected: list[mpf], scale: list[mpf]) -> float:
    pairs = zip(got.tolist(), expected, scale, strict=True)
    excess = ((abs(mpf(g) - e) - ABSOLUTE, s) for g, e, s in pairs if abs(e) < 3e38)
    return max(float(error / s) if error > 0 else 0.0 for error, s in excess)
