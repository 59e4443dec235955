"""How much every block counts in what all of them say together.

q ∝ Π_k p_k^{w_k} is the distribution with the least Σ_k w_k D_KL(q ‖ p_k): a logarithmic opinion pool (Heskes 1998,
"Selecting weighting factors in logarithmic opinion pools"). Its logits are Σ_k w_k z_k. The weights, w_k ≥ 0 and
Σ_k w_k = 1, are those for which the targets are most likely. Without them every block counts the same.

N answers, C classes.
"""

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from blocklocal._common.errors import InputError
from blocklocal.block.targets import MISSING, Asked, Classes, Targets, pooled, values_of

Weights: TypeAlias = tuple[tuple[float, ...], ...]  # of every block: of each block up to it
MOST = 2**26  # logits that are kept to fit weights on: a quarter of a GiB
NOTHING = 1e-3  # a weight below it is none
NONE_BETTER = 1e-6  # a sum of weights that makes every class as likely
ITERATIONS = 100  # of LBFGS; the problem is convex in w / T


def fit_weights(targets: Targets, logits: Sequence[Tensor | None], y: Tensor) -> Weights:
    """Of every block: the weights of it and all before it. A block that does not predict has the weight 0.

    Args:
        logits: of every block, [N, C] or of binary labels [N, L]; None where it does not predict.
        y: [N] classes, or [N, L].
    """
    return tuple(_row(targets, logits[: k + 1], y) for k in range(len(logits)))


def _row(targets: Targets, logits: Sequence[Tensor | None], y: Tensor) -> tuple[float, ...]:
    known = [(j, each.double()) for j, each in enumerate(logits) if each is not None]
    found = [0.0] * len(logits)
    if known:
        stacked = torch.stack([each for _, each in known])
        roots = torch.full((len(known),), len(known) ** -0.5, dtype=torch.float64, device=stacked.device)
        for (j, _), weight in zip(known, _fitted(targets, stacked, y, roots.requires_grad_()), strict=True):
            found[j] = weight
    return tuple(found)


def _fitted(targets: Targets, logits: Tensor, y: Tensor, roots: Tensor) -> list[float]:
    """Least negative log-likelihood of the logits Σ_k r_k² z_k, from r on; then r² / Σ r²."""
    solver = torch.optim.LBFGS([roots], max_iter=ITERATIONS, tolerance_grad=1e-8, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        value = targets.loss(pooled(list(logits), roots.square()), y)
        value.backward()
        return value

    if len(roots) > 1:
        with torch.enable_grad():
            solver.step(loss)  # pyrefly: ignore
    weights = roots.detach().square()
    if not weights.sum() > NONE_BETTER:  # to know nothing is better than any of them
        weights = torch.ones_like(weights)
    weights = torch.where(weights < NOTHING * weights.sum(), 0.0, weights)
    return (weights / weights.sum()).tolist()


class FirstLogits:
    """Logits and targets to fit weights on, of the first batches."""

    def __init__(self, targets: Targets):
        self.targets = targets
        self.logits: list[list[Tensor | None]] = []
        self.wanted: list[Tensor] = []
        self.size = 0

    def add(self, logits: Sequence[Tensor | None], y: Asked) -> bool:
        """Keep a batch; whether there is room for more.

        Args:
            logits: of every block, as `Targets.as_logits` gives them.

        Raises:
            InputError: a block predicts no finite numbers.
        """
        y = self.targets.hard(y) if isinstance(self.targets, Classes) else values_of(y)
        if not bool((y != MISSING).any()):
            return True
        if not all(bool(each.isfinite().all()) for each in logits if each is not None):
            raise InputError(
                "a block predicts no finite numbers: its training diverged. Train again, with a smaller lr."
            )
        ends = 1 if isinstance(self.targets, Classes) else 2  # of a sample: its class, or its labels
        self.wanted.append(y if y.dim() == ends else y.flatten(0, -ends))
        self.logits.append([None if each is None else each.flatten(0, -2) for each in logits])
        self.size += sum(each.numel() for each in logits if each is not None)
        return self.size < MOST

    @property
    def there(self) -> bool:
        """Whether anything has a target."""
        return bool(self.wanted)

    def fit(self) -> Weights:
        """As `fit_weights`; none where at most one block predicts."""
        columns = [[each for each in column if each is not None] for column in zip(*self.logits, strict=True)]
        if sum(map(bool, columns)) < 2:
            return ()
        joined = [torch.cat(column) if column else None for column in columns]
        return fit_weights(self.targets, joined, torch.cat(self.wanted))
