"""The temperature of a prediction (Guo et al. 2017, arXiv 1706.04599): by what its logits are divided.

It is the one number that makes the targets most likely. It changes no answer.
"""

import torch
from torch import Tensor

from blocklocal.block.targets import Asked, Targets

EXPONENTS = torch.linspace(-6, 6, 65, dtype=torch.float64)
TEMPERATURES = 2**EXPONENTS  # 1/64 to 64, in steps of 14 %


def fit_temperature(targets: Targets, logits: Tensor, y: Asked) -> float:
    """Of logits [N, …] with their targets."""
    return least(losses_at(targets, logits, y))


def losses_at(targets: Targets, logits: Tensor, y: Asked) -> Tensor:
    """The mean negative log-likelihood at each of `TEMPERATURES`, float64 on the CPU."""
    return torch.tensor([targets.loss(logits / t, y).item() for t in TEMPERATURES.tolist()], dtype=torch.float64)


def least(losses: Tensor) -> float:
    """The temperature with the least loss, by a parabola through those beside the least that was tried."""
    at = int(losses.argmin())
    place = float(at)
    if 0 < at < len(losses) - 1:
        before, here, after = losses[at - 1 : at + 2].tolist()
        bend = before - 2 * here + after
        place += 0.5 * (before - after) / bend if bend > 0 else 0.0
    return float(2 ** (EXPONENTS[0] + place * (EXPONENTS[1] - EXPONENTS[0])))


def is_at_the_edge(temperature: float) -> bool:
    """Whether it is the smallest or the largest that is tried: a better one lies beyond."""
    return not TEMPERATURES[0].item() < temperature < TEMPERATURES[-1].item()
