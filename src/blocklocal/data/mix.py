"""Mixtures of two images of a batch, with targets in the same shares: mixup and cutmix.

Shapes: B images, C classes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from blocklocal._common.errors import InputError, unknown

Mix = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]
_NAMES = ("mixup", "cutmix")
_USUAL = {"mixup": 0.2, "cutmix": 1.0}  # as in the papers


def mixer(name: str, classes: int) -> Mix:
    """A function (x [B, …], labels int64 [B], generator) → (x, soft targets float32 [B, C]).

    Args:
        name: "mixup" (Zhang et al., arXiv 1710.09412) adds two images up in random shares; "cutmix" (Yun et al., arXiv
            1905.04899) puts a rectangle of one into the other. The parameter of the shares, Beta(a, a), may follow a
            colon: "mixup:0.4". The default is 0.2 of mixup and 1 of cutmix.
        classes: C.

    Raises:
        InputError: it is neither of them, or the parameter is no number above 0.
    """
    kind, colon, text = (part.strip() for part in name.partition(":"))
    if kind not in _NAMES:
        raise unknown("mix", kind, _NAMES)
    try:
        alpha = float(text) if colon else _USUAL[kind]
    except ValueError:
        alpha = 0.0
    if not 0 < alpha <= 1000:
        raise InputError(f"mix {name!r}: a number above 0 follows the colon, such as {kind}:{_USUAL[kind]}.")

    def mix(x: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        other = torch.randperm(len(x), generator=generator).to(x.device)
        share = _beta(alpha, generator)
        if kind == "mixup":
            mixed = share * x + (1 - share) * x[other]
        else:
            mixed, share = _pasted(x, other, share, generator)
        hard = F.one_hot(labels, classes).float()
        return mixed, share * hard + (1 - share) * hard[other.to(labels.device)]

    return mix


def _beta(alpha: float, generator: torch.Generator) -> float:
    """A draw of Beta(alpha, alpha) from the generator, which torch's own distributions do not take."""
    both = torch._standard_gamma(torch.full((2,), alpha, dtype=torch.float64), generator=generator)
    return float(both[0] / both.sum()) if float(both.sum()) > 0 else 0.5


def _pasted(x: Tensor, other: Tensor, share: float, generator: torch.Generator) -> tuple[Tensor, float]:
    """A rectangle of 1 - share of the area, around a random place; part of it may lie outside. Returns what is left."""
    sides = x.shape[2:]
    middle = [int(torch.randint(side, (1,), generator=generator)) for side in sides]
    halves = [(1 - share) ** 0.5 * side / 2 for side in sides]
    (top, bottom), (left, right) = (
        (max(0, round(at - half)), min(side, round(at + half)))
        for at, half, side in zip(middle, halves, sides, strict=True)
    )
    mixed = x.clone()
    mixed[:, :, top:bottom, left:right] = x[other, :, top:bottom, left:right]
    return mixed, 1 - (bottom - top) * (right - left) / (sides[0] * sides[1])
