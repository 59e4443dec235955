"""What the network is asked for: classes or binary labels, one per sample or one per position.

A target is turned into *rows*: the distinct messages that a twin can be asked for (one per class; two per binary
label). The twin is evaluated once per row, never once per sample, and a target then picks its rows.

Shapes: B samples, T positions, R rows, C classes, L labels, P message positions, U units.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from blocklocal._common.errors import InputError
from blocklocal._common.ranges import FROM_ONE, check_range

MISSING = -100  # the field's usual value for "no target here" (ignore_index of torch's cross-entropy)
WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def check_shape(target: Tensor, expected: torch.Size) -> None:
    """Refuse targets that do not fit the logits; torch would broadcast some of them without an error."""
    if target.shape != expected:
        raise InputError(
            f"targets of shape {list(target.shape)} do not fit the network's output, which needs {list(expected)}: "
            "one class number per sample (per position for sequences), or one 0 or 1 per binary label."
        )


def mean_of_real(each: Tensor, mask: Tensor | None) -> Tensor:
    """The mean over positions, [B, P, …] → [B, …]; with a mask [B, P], over those that it says are real."""
    if mask is None:
        return each.mean(1)
    real = mask.view(*mask.shape, *(1 for _ in each.shape[2:]))
    return torch.where(real, each, 0).sum(1) / real.sum(1).clamp(min=1)


@dataclass(frozen=True)
class Classes:
    """One of `count` classes: targets are int64, [B] or [B, T]; `MISSING` (-100) where a sample has none."""

    count: int

    def __post_init__(self) -> None:
        check_range("classes", self.count, FROM_ONE)

    @property
    def rows(self) -> int:
        return self.count

    def shape(self, output: torch.Size) -> torch.Size:
        """The shape of one sample's target, where the network gives this output for it."""
        return output[:-1]

    def check(self, target: Tensor) -> None:
        """Refuse targets that are not class numbers: wrong type or shape, or outside 0 … count - 1."""
        if target.dtype not in WHOLE:
            raise InputError(
                f"class targets must be whole numbers (int64), not {target.dtype}; for labels use labels=."
            )
        if target.dim() not in (1, 2):
            raise InputError(f"class targets must have the shape [B] or [B, T], not {list(target.shape)}.")
        target = target.long()
        outside = ((target < 0) | (target >= self.count)) & (target != MISSING)
        if outside.any():
            worst = target[outside][0].item()
            raise InputError(
                f"target {worst} is outside the classes 0 … {self.count - 1}; "
                f"give classes={worst + 1 if worst >= self.count else self.count} or mend the labels."
            )

    def loss(self, logits: Tensor, target: Tensor, smoothing: float = 0.0) -> Tensor:
        """Mean cross-entropy of logits [B, C] or [B, T, C] over the targets that are there; 0 where none is."""
        check_shape(target, logits.shape[:-1])
        flat, wanted = logits.flatten(0, -2), target.flatten().long()
        total = F.cross_entropy(flat, wanted, ignore_index=MISSING, label_smoothing=smoothing, reduction="sum")
        return total / (wanted != MISSING).sum().clamp(min=1)

    def pick(self, table: Tensor, target: Tensor) -> Tensor:
        """Each sample's own message, table [C, P, …] → [B, P, …]; 0 where missing.

        For targets [B, T]: each position's own, table [C, 1 or T, …] → [B, T, …].
        """
        target = target.long()  # in uint8, 156 equals -100
        row, there = target.clamp(min=0), (target != MISSING).to(table.dtype)
        if target.dim() == 1:
            chosen = table[row]
        else:
            chosen = table[row, 0 if table.shape[1] == 1 else torch.arange(table.shape[1], device=table.device)]
        return chosen * there.view(*there.shape, *(1 for _ in chosen.shape[there.dim() :]))

    def there(self, target: Tensor) -> Tensor:
        """Which samples (positions) have a target, [B] or [B, T]."""
        return target.long() != MISSING

    def one_hot(self, target: Tensor) -> Tensor:
        """[B] → [B, C], rows of zeros where the target is missing."""
        target = target.long()
        return F.one_hot(target.clamp(min=0), self.count).float() * (target != MISSING).unsqueeze(-1)

    def as_logits(self, scores: Tensor) -> Tensor:
        return scores

    def correct(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """(number right, number of targets) as tensors, so that nothing waits for the device."""
        check_shape(target, logits.shape[:-1])
        target = target.long()
        there = target != MISSING
        return ((logits.argmax(-1) == target) & there).sum(), there.sum()

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits.float().softmax(-1)

    def label(self, probabilities: Tensor) -> Tensor:
        """The most probable class, [B] or [B, T]."""
        return probabilities.argmax(-1)

    def confidence(self, probabilities: Tensor) -> Tensor:
        """The probability of the label, [B] or [B, T]."""
        return probabilities.amax(-1)

    def row_errors(self, errors: Tensor) -> Tensor:
        """∂L/∂logits [B, C] or [B, T, C] → the error of every target row: the same."""
        return errors


@dataclass(frozen=True)
class Labels:
    """`count` binary labels per sample: targets are 0 or 1, [B, L]; `MISSING` (-100) where one is not known.

    They may be truth values, whole numbers, or floats of exactly these values.

    Every label is a two-way softmax over its own pair of rows (2j for "no", 2j + 1 for "yes").
    """

    count: int

    def __post_init__(self) -> None:
        check_range("labels", self.count, FROM_ONE)

    @property
    def rows(self) -> int:
        return 2 * self.count

    def shape(self, output: torch.Size) -> torch.Size:
        """The shape of one sample's target."""
        return torch.Size((*output[:-1], self.count))

    def check(self, target: Tensor) -> None:
        """Refuse anything but 0, 1 and `MISSING` in the shape [B, L]."""
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

    def loss(self, logits: Tensor, target: Tensor, smoothing: float = 0.0) -> Tensor:
        """Mean binary cross-entropy over the labels that are there."""
        check_shape(target, torch.Size((*logits.shape[:-1], self.count)))
        there = target != MISSING
        wanted = target.clamp(min=0).to(logits.dtype) * (1 - smoothing) + smoothing / 2
        each = F.binary_cross_entropy_with_logits(self.as_logits(logits), wanted, reduction="none")
        return (each * there).sum() / there.sum().clamp(min=1)

    def pick(self, table: Tensor, target: Tensor) -> Tensor:
        """The sum over a sample's labels (messages multiply, natural parameters add): table [2L, …] → [B, …]."""
        return torch.einsum("br,r...->b...", self.one_hot(target).to(table.dtype), table)

    def there(self, target: Tensor) -> Tensor:
        """Which samples have a target of any label, [B]."""
        return (target != MISSING).any(-1)

    def one_hot(self, target: Tensor) -> Tensor:
        """[B, L] → [B, 2L] with a one in every label's own row; zeros where it is missing."""
        rows = F.one_hot(target.clamp(min=0).long(), 2).float() * (target != MISSING).unsqueeze(-1)
        return rows.flatten(1)

    def correct(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        check_shape(target, torch.Size((*logits.shape[:-1], self.count)))
        there = target != MISSING
        right = ((self.as_logits(logits) > 0) == (target == 1)) & there
        return right.sum(), there.sum()

    def probabilities(self, logits: Tensor) -> Tensor:
        return self.as_logits(logits).float().sigmoid()

    def label(self, probabilities: Tensor) -> Tensor:
        """1 where "yes" is the more probable answer, else 0: int64 [B, L]."""
        return (probabilities > 0.5).long()

    def confidence(self, probabilities: Tensor) -> Tensor:
        """The probability of each label as it is answered, [B, L]."""
        return torch.maximum(probabilities, 1 - probabilities)

    def row_errors(self, errors: Tensor) -> Tensor:
        """∂L/∂log-odds [B, L] → the error of every target row [B, 2L]: its negative at "no", itself at "yes"."""
        return torch.stack([-errors, errors], -1).flatten(1)


Targets = Classes | Labels


def without_padding(targets: Targets, target: Tensor, mask: Tensor | None) -> Tensor:
    """Targets of positions, [B, T], with none where a position is not real; all others as they are.

    Args:
        mask: [B, T], true where a position is real; None where all are.
    """
    if mask is None or not isinstance(targets, Classes) or target.shape != mask.shape or target.dtype not in WHOLE:
        return target
    return target.long().masked_fill(~mask, MISSING)


def target_rows(targets: Targets, device: torch.device | None = None) -> Tensor:
    """The one-hot target rows [R, R] that twins start from."""
    return torch.eye(targets.rows, device=device)


def combined(targets: Targets, scores: Sequence[Tensor | None]) -> Tensor | None:
    """The scores of several blocks as one: logits of the q with the least Σ_k D_KL(q ‖ p_k), p_k what block k predicts.

    That q is the normalised geometric mean of the p_k, so its logits are the mean of theirs.

    Returns:
        The logits; None where fewer than two predict.
    """
    known = [targets.as_logits(each).float() for each in scores if each is not None]
    return torch.stack(known).mean(0) if len(known) > 1 else None
