"""Numerical helpers shared by the families: differences that cancel, computed so that they do not."""

from collections.abc import Callable
from functools import cache, wraps

import torch
from torch import Tensor

CHUNK = 65_536  # elements: 256 KiB in float32
SERIES = 0.5  # below this size the closed forms of the two remainders cancel and their series are used


def exp_remainder(x: Tensor) -> Tensor:
    """e^x - 1 - x ≥ 0, to a few float32 roundings relative; overflows as e^x does."""
    small = x.clamp(-SERIES, SERIES)
    series = torch.full_like(small, 1 / 12)
    for n in range(11, 2, -1):  # Horner on x²/2 (1 + x/3 (1 + x/4 (1 + ...)))
        series = (1 + series * small) / n
    return torch.where(x.abs() < SERIES, 0.5 * small**2 * (1 + series * small), torch.expm1(x) - x)


def log1p_remainder(x: Tensor, ratio: Tensor) -> Tensor:
    """x - log(1 + x) ≥ 0 for x > -1, relative accuracy as above. ``ratio`` is 1 + x, better known near x = -1."""
    small = x.clamp(-SERIES, SERIES)
    s = small / (2 + small)  # log(1 + x) = 2 atanh(s), and x - 2s = x·s exactly
    square = s * s
    series = torch.full_like(s, 1 / 19)
    for n in range(17, 1, -2):
        series = series * square + 1 / n
    return torch.where(x.abs() < SERIES, s * (small - 2 * square * series), x - log_ratio(x, ratio))


def log_ratio(x: Tensor, ratio: Tensor) -> Tensor:
    """log(1 + x) for x > -1, accurate for small x and, through ``ratio`` = 1 + x, near x = -1."""
    near = x > -SERIES
    return torch.where(near, torch.log1p(x.clamp(min=-SERIES)), torch.log(torch.where(near, 1, ratio)))


def difference(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """a - b, and what its rounding lost (Knuth's TwoSum; a constant for autograd)."""
    rounded = a - b
    with torch.no_grad():
        other = a - rounded
        lost = (a - (rounded + other)) + (other - b)
    return rounded, lost


@cache
def gauss_legendre(count: int) -> tuple[tuple[float, float], ...]:
    """(node, weight) pairs of the Gauss-Legendre rule on [0, 1] (Golub and Welsch 1969)."""
    k = torch.arange(1, count, dtype=torch.float64)
    off = k / torch.sqrt(4 * k * k - 1)
    nodes, vectors = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))
    return tuple(zip(((nodes + 1) / 2).tolist(), (vectors[0] ** 2).tolist(), strict=True))


def in_chunks(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """An elementwise function of tensors of one shape, on the CPU piece by piece.

    Some twenty intermediate tensors of a feature map's size would each go through memory. Those of a piece stay in the
    cache, which is three times as fast.
    """
    first = tensors[0]
    if first.device.type != "cpu" or first.numel() <= CHUNK:
        return function(*tensors)
    pieces = zip(*(t.flatten().split(CHUNK) for t in tensors), strict=True)
    return torch.cat([function(*piece) for piece in pieces]).view(first.shape)


def in_float(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Lift a method of tensors to float32 for half precision input (erfcx has no half kernel) and round its result."""

    @wraps(function)
    def lifted(self: object, *tensors: Tensor) -> Tensor:
        dtype = torch.result_type(tensors[0], tensors[-1])
        if dtype not in (torch.float16, torch.bfloat16):
            return function(self, *tensors)
        return function(self, *(t.float() for t in tensors)).to(dtype)

    return lifted
