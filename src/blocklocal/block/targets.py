"""What the network is asked for: classes, binary labels or values; per sample, per position or per pixel.

A target is turned into *rows*: the distinct messages that a twin can be asked for (one per class; two per binary
label; some per value). The twin is evaluated once per row, never once per sample, and a target then picks its rows.

Shapes: B samples, T positions, R rows, C classes, L labels, V values, P message positions, U units.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from blocklocal._common.errors import InputError
from blocklocal._common.ranges import FROM_ONE, check_range
from blocklocal.block.classes import Classes, balanced
from blocklocal.block.target import MISSING, Asked, Target, Targets, check_shape, check_weight, values_of, weight_of
from blocklocal.block.tokens import Tokens
from blocklocal.block.values import Values
from blocklocal.block.weighting import mean_of_real, spread, units_last, weighted_mean

__all__ = [
    "MISSING",
    "Asked",
    "Classes",
    "Labels",
    "Target",
    "Targets",
    "Tokens",
    "Values",
    "balanced",
    "check_shape",
    "combined",
    "measured",
    "pooled",
    "target_rows",
    "units_last",
    "values_of",
]


@dataclass(frozen=True)
class Labels(Targets):
    """`count` binary labels per sample: targets are 0 or 1, [B, L]; `MISSING` (-100) where one is not known.

    They may be truth values, whole numbers, or floats of exactly these values.

    Every label is a two-way softmax over its own pair of rows (2j for "no", 2j + 1 for "yes").
    """

    def __post_init__(self) -> None:
        check_range("labels", self.count, FROM_ONE)

    @property
    def rows(self) -> int:
        return 2 * self.count

    def shape(self, output: torch.Size) -> torch.Size:
        return torch.Size((*output[:-1], self.count))

    def misfit(self, output: torch.Size) -> str | None:
        if len(output) in (2, 3) and output[-1] == self.count:
            return None
        return (
            f"the last block gives {list(output[1:])} values per sample, but there are {self.count} targets: "
            f"end the model with a layer of {self.count} outputs, or give classes={output[-1]}."
        )

    def check(self, target: Asked) -> None:
        """Refuse anything but 0, 1 and `MISSING` in the shape [B, L]."""
        check_weight(target)
        target = values_of(target)
        if target.is_complex():
            raise InputError(f"label targets must be 0 or 1, not {target.dtype}.")
        if target.dim() != 2 or target.shape[1] != self.count:
            raise InputError(f"label targets must have the shape [batch, {self.count}], not {list(target.shape)}.")
        value = target.float()  # in uint8, 156 equals -100
        if not ((value == 0) | (value == 1) | (value == MISSING)).all():
            raise InputError("binary label targets must be 0 or 1 (or -100 where a label is not known).")

    def as_logits(self, scores: Tensor) -> Tensor:
        """Scores of rows [B, 2L] → the log-odds of every label [B, L]; output blocks give [B, L] already."""
        if scores.shape[-1] == self.count:
            return scores
        pairs = scores.unflatten(-1, (self.count, 2))
        return pairs[..., 1] - pairs[..., 0]

    def loss(self, logits: Tensor, target: Asked, smoothing: float = 0.0) -> Tensor:
        """Mean binary cross-entropy over the labels that are there."""
        y = values_of(target)
        check_shape(y, torch.Size((*logits.shape[:-1], self.count)))
        wanted = y.clamp(min=0).to(logits.dtype) * (1 - smoothing) + smoothing / 2
        each = F.binary_cross_entropy_with_logits(self.as_logits(logits), wanted, reduction="none")
        return weighted_mean(each, self._of_labels(target))

    def _of_labels(self, target: Asked) -> Tensor:
        """How much every label counts, [B, L]."""
        there, weight = values_of(target) != MISSING, weight_of(target)
        return there if weight is None else there * spread(weight, there)

    def weights(self, target: Asked) -> Tensor:
        """[B]: the mean over the labels that are there."""
        return mean_of_real(self._of_labels(target).float(), values_of(target) != MISSING)

    def pick(self, table: Tensor, target: Asked) -> Tensor:
        """The sum over a sample's labels (messages multiply, natural parameters add): table [2L, …] → [B, …]."""
        return torch.einsum("br,r...->b...", self.one_hot(target).to(table.dtype), table)

    def one_hot(self, target: Asked) -> Tensor:
        """[B, L] → [B, 2L] with a one in every label's own row; zeros where it is missing."""
        y = values_of(target)
        rows = F.one_hot(y.clamp(min=0).long(), 2).float() * (y != MISSING).unsqueeze(-1)
        return rows.flatten(1)

    def sums(self, logits: Tensor, target: Asked) -> Tensor:
        """[right, all]."""
        y = values_of(self.asked(target))
        check_shape(y, logits.shape)
        there = y != MISSING
        right = ((logits > 0) == (y == 1)) & there
        return torch.stack([right.sum(), there.sum()])

    def figures(self, sums: Tensor) -> dict[str, float]:
        right, count = sums.tolist()
        return {"top1": 100.0 * right / max(count, 1)}

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits.float().sigmoid()

    def label(self, probabilities: Tensor) -> Tensor:
        """1 where "yes" is the more probable answer, else 0: int64 [B, L]."""
        return (probabilities > 0.5).long()

    def confidence(self, probabilities: Tensor) -> Tensor:
        """The probability of each label as it is answered, [B, L]."""
        return torch.maximum(probabilities, 1 - probabilities)

    def row_errors(self, errors: Tensor) -> Tensor:
        """∂L/∂log-odds [B, L] → the error of every target row [B, 2L]: its negative at "no", itself at "yes"."""
        return torch.stack([-errors, errors], -1).flatten(1)


def measured(targets: Targets, scores: Tensor | None, y: Asked) -> Tensor | None:
    """Sums of which figures are made (`Targets.measure`); None where nothing is predicted."""
    return None if scores is None else targets.measure(scores, y)


def target_rows(targets: Targets, device: torch.device | None = None) -> Tensor:
    """The one-hot target rows [R, R] that twins start from."""
    return torch.eye(targets.rows, device=device)


def pooled(logits: Sequence[Tensor | None], weights: Sequence[float] = ()) -> Tensor:
    """Logits Σ_k w_k z_k / Σ_k w_k of the normalised Π_k p_k^{w_k}, the q with the least Σ_k w_k D_KL(q ‖ p_k).

    Args:
        logits: z_k, those of p_k, of one shape [..., C]; None where there are none, at least one is there.
        weights: w_k, 0 or more; of those that are not there they do not count. None for the same each.

    Raises:
        InputError: all weights are of logits that are not there.
    """
    if not weights:
        return torch.stack([each for each in logits if each is not None]).mean(0)
    counted = [(w, z) for w, z in zip(weights, logits, strict=True) if z is not None]
    total = sum(w for w, _ in counted)
    if not total:
        raise InputError(f"only blocks that do not predict count, by the weights {tuple(weights)}.")
    return torch.stack([w * z for w, z in counted]).sum(0) / total


def combined(targets: Targets, scores: Sequence[Tensor | None], weights: Sequence[float] = ()) -> Tensor | None:
    """The scores of several blocks as one, as `pooled` joins what they predict.

    Args:
        weights: of every block; none for the same each, the normalised geometric mean of what they predict.

    Returns:
        The logits; None where fewer than two predict.
    """
    last = scores[-1] if scores else None
    if last is None or targets.hidden:
        return None
    if sum(each is not None for each in scores) < 2:
        return None
    known = [None if each is None else targets.as_logits(targets.resized(each, last)).float() for each in scores]
    return pooled(known, weights)
