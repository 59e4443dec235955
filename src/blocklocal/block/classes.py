"""Classes: one of several per sample, per position of a sequence, or per pixel; as a number or as shares of a whole."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blocklocal._common.errors import InputError
from blocklocal._common.ranges import FROM_ONE, check_range
from blocklocal.block.target import MISSING, Asked, Target, Targets, check_shape, check_weight, values_of, weight_of
from blocklocal.block.weighting import spread, units_last, weighted_mean

WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
SUM = 1e-3  # how far the shares of a soft target may be from a sum of one


@dataclass(frozen=True)
class Classes(Targets):
    """One of `count` classes.

    Targets are whole numbers, [B], [B, T] or, per pixel, [B, H, W]; `MISSING` (-100) where there is none. Or they are
    soft, the share of every class, floats in the shape of the output: [B, C], [B, T, C] or [B, C, H, W]. The shares
    sum to one, or are all 0 where there is no target.

    Attributes:
        class_weights: how much the targets of every class count in every loss; None: all the same.
    """

    class_weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        check_range("classes", self.count, FROM_ONE)
        if self.class_weights is None:
            return
        object.__setattr__(self, "class_weights", tuple(float(weight) for weight in self.class_weights))
        good = all(math.isfinite(weight) and weight >= 0 for weight in self.class_weights)
        if len(self.class_weights) != self.count or not good or not any(self.class_weights):
            raise InputError(
                f"class_weights must be {self.count} finite numbers, one per class, 0 or more and not all 0; what came "
                f"is {list(self.class_weights)}."
            )

    @property
    def rows(self) -> int:
        return self.count

    def shape(self, output: torch.Size) -> torch.Size:
        return output[:-1] if len(output) < 3 else output[1:]

    def misfit(self, output: torch.Size) -> str | None:
        axis = -1 if len(output) < 4 else 1
        if len(output) in (2, 3, 4, 5) and output[axis] == self.count:
            return None
        per = "sample" if len(output) < 4 else "sample (channels first)"
        return (
            f"the last block gives {list(output[1:])} values per {per}, but there are {self.count} targets: "
            f"end the model with a layer of {self.count} outputs, or give classes={output[axis]}."
        )

    def check(self, target: Asked) -> None:
        """Refuse targets that are not class numbers or shares of classes: wrong type, shape or values."""
        check_weight(target)
        y = values_of(target)
        if y.is_floating_point() and y.dim() > 1:
            self._check_shares(y)
            return
        if y.dtype not in WHOLE:
            raise InputError(
                f"class targets must be whole numbers (int64), not {y.dtype}; for labels use labels=, for values "
                f"values=, and soft targets have a share for every class, [B, {self.count}]."
            )
        if y.dim() not in (1, 2, 3, 4):
            raise InputError(f"class targets must have the shape [B], [B, T] or [B, H, W], not {list(y.shape)}.")
        y = y.long()
        outside = ((y < 0) | (y >= self.count)) & (y != MISSING)
        if outside.any():
            worst = y[outside][0].item()
            raise InputError(
                f"target {worst} is outside the classes 0 … {self.count - 1}; "
                f"give classes={worst + 1 if worst >= self.count else self.count} or mend the labels."
            )

    def _check_shares(self, y: Tensor) -> None:
        shares = units_last(y)
        if shares.shape[-1] != self.count:
            raise InputError(
                f"soft targets of shape {list(y.shape)} must have a share for each of the {self.count} classes, as "
                f"[B, {self.count}]; for class numbers give whole numbers (int64)."
            )
        total = shares.sum(-1)
        if not bool((shares >= 0).all() & (((total - 1).abs() < SUM) | (total == 0)).all()):
            raise InputError(
                "soft targets must be shares of the classes: 0 or more, with a sum of one per sample (or all 0 where a "
                "sample has no target)."
            )

    def fit(self, target: Asked, expected: torch.Size) -> None:
        y = values_of(target)
        if y.is_floating_point():
            check_shape(units_last(y), torch.Size((*expected, self.count)))
        else:
            check_shape(y, expected)

    # --- losses

    def loss(self, logits: Tensor, target: Asked, smoothing: float = 0.0) -> Tensor:
        """Mean cross-entropy of logits [B, C], [B, T, C] or [B, H, W, C] over the targets that are there."""
        y = values_of(target)
        self.fit(target, logits.shape[:-1])
        flat = logits.flatten(0, -2)
        if not self.weighs(target):
            wanted = y.flatten().long()
            total = F.cross_entropy(flat, wanted, ignore_index=MISSING, label_smoothing=smoothing, reduction="sum")
            return total / (wanted != MISSING).sum().clamp(min=1)
        wanted = self._shares(y).flatten(0, -2) if y.is_floating_point() else y.flatten().long()
        each = F.cross_entropy(flat, wanted, ignore_index=MISSING, label_smoothing=smoothing, reduction="none")
        return weighted_mean(each, self.weights(target).flatten())

    def output_loss(self, output: Tensor, target: Asked, smoothing: float = 0.0) -> Tensor:
        return self.loss(units_last(output), target, smoothing)

    def _shares(self, y: Tensor) -> Tensor:
        """Soft targets, units last, with the weights of their classes in them; of a sum of one, or all 0."""
        rows = self._weighted(units_last(y).float())
        return rows / rows.sum(-1, keepdim=True).clamp(min=torch.finfo(rows.dtype).tiny)

    def _weighted(self, rows: Tensor) -> Tensor:
        return rows if self.class_weights is None else rows * rows.new_tensor(self.class_weights)

    def weighs(self, target: Asked) -> bool:
        return self.class_weights is not None or weight_of(target) is not None or values_of(target).is_floating_point()

    def weights(self, target: Asked) -> Tensor:
        y, weight = values_of(target), weight_of(target)
        if y.is_floating_point():
            own = self._weighted(units_last(y).float()).sum(-1)
        else:
            y = y.long()  # in uint8, 156 equals -100
            own = (y != MISSING).float()
            if self.class_weights is not None:
                own = own * own.new_tensor(self.class_weights)[y.clamp(min=0)]
        return own if weight is None else own * spread(weight, own)

    def missing(self, y: Tensor, where: Tensor) -> Tensor | None:
        if y.is_floating_point():
            return y.masked_fill(where.unsqueeze(-1), 0) if y.dim() == 3 and y.shape[:2] == where.shape else None
        return y.long().masked_fill(where, MISSING) if y.shape == where.shape else None

    def pick(self, table: Tensor, target: Asked) -> Tensor:
        """Each sample's own message, table [C, P, …] → [B, P, …]; 0 where missing.

        For targets [B, T]: each position's own, table [C, 1 or T, …] → [B, T, …].
        """
        y = values_of(target)
        if y.is_floating_point():
            y = y.to(table.dtype)
            if y.dim() == 2:
                return torch.einsum("br,r...->b...", y, table)
            return torch.einsum("bpr,rp...->bp...", y, table.expand(-1, y.shape[1], *table.shape[2:]))
        y = y.long()  # in uint8, 156 equals -100
        row, there = y.clamp(min=0), (y != MISSING).to(table.dtype)
        if y.dim() == 1:
            chosen = table[row]
        else:
            chosen = table[row, 0 if table.shape[1] == 1 else torch.arange(table.shape[1], device=table.device)]
        return chosen * there.view(*there.shape, *(1 for _ in chosen.shape[there.dim() :]))

    def one_hot(self, target: Asked) -> Tensor:
        """[B] → [B, C], rows of zeros where the target is missing."""
        y = values_of(target)
        if y.is_floating_point():
            return units_last(y).float()
        y = y.long()
        return F.one_hot(y.clamp(min=0), self.count).float() * (y != MISSING).unsqueeze(-1)

    # --- targets per pixel

    def at(self, target: Asked, grid: torch.Size) -> Asked:
        """Targets per pixel where a block has other positions than the output: the share of every class in each area.

        A pixel without a target, or of less weight, has less part in its area, and an area of few such counts less.
        """
        y, weight = values_of(target), weight_of(target)
        size = y.shape[2:] if y.is_floating_point() else y.shape[1:]
        if len(size) < 2:
            return target
        if not y.is_floating_point() and grid == size:
            return Target(y.flatten(1), None if weight is None else spread(weight, y).flatten(1))
        rows = self.one_hot(target)
        if weight is not None:
            rows = rows * spread(weight, rows[..., 0]).unsqueeze(-1)
        pool = nn.AdaptiveAvgPool2d if len(size) == 2 else nn.AdaptiveAvgPool3d
        pooled = pool(_grid(grid, size))(rows.movedim(-1, 1))
        return pooled.flatten(2).transpose(1, 2)

    def resized(self, scores: Tensor, like: Tensor) -> Tensor:
        return _to_size(scores, like.shape[1:-1])

    # --- what is measured

    def hard(self, target: Asked) -> Tensor:
        """The class of every target, `MISSING` where there is none."""
        y = values_of(target)
        if not y.is_floating_point():
            return y.long()
        shares = units_last(y)
        return torch.where(shares.sum(-1) > 0, shares.argmax(-1), MISSING)

    def sums(self, logits: Tensor, target: Asked) -> Tensor:
        """[right, all], and for pixels how many of every class are in both, and in either, of answer and target."""
        wanted = self.hard(self.asked(target))
        logits = _to_size(logits, wanted.shape[1:])
        check_shape(wanted, logits.shape[:-1])
        there, answered = wanted != MISSING, logits.argmax(-1)
        right = (answered == wanted) & there
        sums = torch.stack([right.sum(), there.sum()])
        if wanted.dim() < 3:
            return sums
        both, asked, said = (
            torch.bincount(each, minlength=self.count) for each in (wanted[right], wanted[there], answered[there])
        )
        return torch.cat([sums, both, asked + said - both])

    def figures(self, sums: Tensor) -> dict[str, float]:
        """Percent right; for pixels the mean intersection over union of the classes that occur, in percent, too."""
        right, count = sums[:2].tolist()
        found = {"top1": 100.0 * right / max(count, 1)}
        if len(sums) > 2:
            both, either = sums[2:].double().view(2, -1)
            found["mean_iou"] = 100.0 * (both / either)[either > 0].mean().item() if count else 0.0
        return found

    def probabilities(self, logits: Tensor) -> Tensor:
        """[B, C] or [B, T, C]; for pixels channels first, [B, C, H, W]."""
        shares = logits.float().softmax(-1)
        return shares.movedim(-1, 1) if shares.dim() > 3 else shares

    def label(self, probabilities: Tensor) -> Tensor:
        """The most probable class, [B], [B, T] or [B, H, W]."""
        return units_last(probabilities).argmax(-1)

    def confidence(self, probabilities: Tensor) -> Tensor:
        """The probability of the label."""
        return units_last(probabilities).amax(-1)

    def row_errors(self, errors: Tensor) -> Tensor:
        """∂L/∂logits [B, C] or [B, T, C] → the error of every target row: the same."""
        return errors


def balanced(targets: Tensor, classes: int) -> list[float]:
    """Class weights by which every class counts the same: samples / (classes · samples of the class).

    Args:
        targets: class numbers of the training part, of any shape; -100 counts nowhere.
        classes: how many there are. One without a sample gets weight 0.

    Raises:
        InputError: there is no target, or one is no class number.
    """
    kind, flat = Classes(classes), torch.as_tensor(targets).flatten()
    kind.check(flat)
    counts = torch.bincount(flat[flat != MISSING].long(), minlength=classes).double()
    if not counts.any():
        raise InputError("balanced class weights need targets, and no sample has one.")
    present = int((counts > 0).sum())
    return torch.where(counts > 0, counts.sum() / (present * counts), 0.0).tolist()


def _grid(grid: Sequence[int], size: Sequence[int]) -> Any:
    """Where a block's positions lie in a picture of this size: tokens of a sequence make a grid of its proportions."""
    if len(grid) == len(size):
        return tuple(grid)
    if not grid:
        return (1,) * len(size)
    if len(grid) == 1 and len(size) == 2:
        height = round((grid[0] * size[0] / size[1]) ** 0.5)
        if height and grid[0] % height == 0:
            return height, grid[0] // height
    raise InputError(
        f"a block has {' × '.join(map(str, grid))} positions, which make no grid over targets per pixel of "
        f"{' × '.join(map(str, size))}: cut elsewhere, where blocks give maps."
    )


def _to_size(scores: Tensor, size: torch.Size) -> Tensor:
    """Scores of pixels, [B, …, R] → [B, *size, R]; anything else as it is."""
    if len(size) < 2 or scores.shape[1:-1] == size:
        return scores
    maps = scores.reshape(len(scores), *_grid(scores.shape[1:-1], size), scores.shape[-1]).movedim(-1, 1)
    mode = "bilinear" if len(size) == 2 else "trilinear"
    return F.interpolate(maps.float(), size=list(size), mode=mode).movedim(1, -1)
