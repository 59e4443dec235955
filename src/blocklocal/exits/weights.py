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
from blocklocal.block.targets import MISSING, Asked, Classes, Targets, values_of

Weights: TypeAlias = tuple[tuple[float, ...], ...]  # of every block: of each block up to it
MOST = 2**25  # logits that are kept to fit weights on; in the fit they take eight times 128 MiB
NOTHING = 1e-3  # a weight below it, of logits of one spread, is none
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
    known = [j for j, each in enumerate(logits) if each is not None]
    found = [0.0] * len(logits)
    if known:
        dtype = torch.float32 if y.is_floating_point() else torch.float64  # soft targets are float32
        with torch.inference_mode(False):
            stacked = torch.stack([each.to(dtype) for each in logits if each is not None]).clone()
            for j, weight in zip(known, _fitted(targets, stacked, y.clone()), strict=True):
                found[j] = weight
    return tuple(found)


def _fitted(targets: Targets, logits: Tensor, y: Tensor) -> list[float]:
    """w / Σ w of the least negative log-likelihood of the logits Σ_k w_k z_k, w_k = r_k² / s_k.

    s_k is the spread of z_k: a block may say much or little with large logits, and which counts is found all the same.

    Args:
        logits: [K, N, C].
    """
    count = len(logits)
    if count == 1:
        return [1.0]
    spread = (logits - logits.mean(-1, keepdim=True) if isinstance(targets, Classes) else logits).flatten(1).std(1)
    spread = torch.where(spread > 0, spread, torch.ones_like(spread))
    scaled = logits / spread.view(-1, 1, 1)
    roots = torch.full((count,), count**-0.5, dtype=logits.dtype, device=logits.device, requires_grad=True)
    solver = torch.optim.LBFGS([roots], max_iter=ITERATIONS, tolerance_grad=1e-8, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        value = targets.loss(torch.einsum("k,k...->...", roots.square(), scaled), y)
        value.backward()
        return value

    with torch.enable_grad():
        solver.step(loss)  # pyrefly: ignore
    weights = roots.detach().square()
    if not weights.sum() > NONE_BETTER:  # to know nothing is better than any of them
        weights = torch.ones_like(weights)
    weights = torch.where(weights < NOTHING * weights.sum(), 0.0, weights) / spread
    return (weights / weights.sum()).tolist()


class KeptLogits:
    """Logits and targets to fit weights on: of all batches, or evenly of some where they are many."""

    def __init__(self, targets: Targets):
        self.targets = targets
        self.kept: list[tuple[list[Tensor | None], Tensor]] = []
        self.size, self.seen, self.every = 0, 0, 1

    @property
    def any_target(self) -> bool:
        """Whether anything has a target."""
        return bool(self.kept)

    def add(self, logits: Sequence[Tensor | None], y: Asked) -> None:
        """Keep a batch, where it is its turn.

        Args:
            logits: of every block, as `Targets.as_logits` gives them.

        Raises:
            InputError: a block predicts no finite numbers.
        """
        wanted = values_of(y)
        if not bool(((self.targets.hard(y) if isinstance(self.targets, Classes) else wanted) != MISSING).any()):
            return
        if not all(bool(each.isfinite().all()) for each in logits if each is not None):
            raise InputError(
                "a block predicts no finite numbers: its training diverged. Train again, with a smaller learning rate."
            )
        self.seen += 1
        if (self.seen - 1) % self.every:
            return
        wide = wanted.is_floating_point() or not isinstance(self.targets, Classes)  # a row per answer: shares, labels
        flat = [None if each is None else each.flatten(0, -2) for each in logits]
        self.kept.append((flat, wanted.flatten(0, -2) if wide else wanted.flatten()))
        self.size += _numbers(flat)
        if self.size > MOST and len(self.kept) > 1:
            self.kept, self.every = self.kept[::2], 2 * self.every
            self.size = sum(_numbers(flat) for flat, _ in self.kept)

    def fit(self) -> Weights:
        """As `fit_weights`; none where at most one block predicts."""
        columns = [
            [each for each in column if each is not None] for column in zip(*(z for z, _ in self.kept), strict=True)
        ]
        if sum(map(bool, columns)) < 2:
            return ()
        joined = [torch.cat(column) if column else None for column in columns]
        return fit_weights(self.targets, joined, torch.cat([y for _, y in self.kept]))


def _numbers(logits: Sequence[Tensor | None]) -> int:
    return sum(each.numel() for each in logits if each is not None)
