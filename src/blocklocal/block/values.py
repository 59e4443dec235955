"""Values: one or several numbers per sample (regression).

A hidden block needs rows to match its message with, and numbers have none. So every value gets `ROWS` rows, at fixed
places from -`REACH` to `REACH` in units of its deviation. A target lies between two neighbouring rows and is shared
between them, so that its expectation over the rows is the value itself. What a block predicts is that expectation.
The last block gives the values themselves, in units of the deviation, and its loss is the squared error.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from blocklocal._common.errors import InputError
from blocklocal._common.ranges import FROM_ONE, check_range
from blocklocal.block.target import Asked, Target, Targets, check_shape, check_weight, given_of, values_of, weight_of
from blocklocal.block.weighting import mean_of_real, spread, weighted_mean

ROWS = 32
REACH = 3.0  # in deviations; beyond it hidden blocks aim at the outermost row, the last block at the value
FAR = 1e4  # deviations from the mean that cannot be meant


@dataclass(frozen=True)
class Values(Targets):
    """`count` numbers per sample: targets are floats [B, V] (or [B] for one), NaN where one is not known.

    The network learns (y - mean) / std, and its predictions are in the units of y again.

    Attributes:
        mean, std: of every value in the training part; `Values.of(y)` measures them. Default 0 and 1: y is
            standardised already.

    Raises:
        InputError: mean and std are not one finite number per value, or a std is not above 0.
    """

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    measures: ClassVar[tuple[str, ...]] = ("rmse", "mae", "r2")
    output_name = "squared error"

    def __post_init__(self) -> None:
        check_range("values", self.count, FROM_ONE)
        for name, usual in (("mean", 0.0), ("std", 1.0)):
            given = tuple(float(each) for each in getattr(self, name)) or (usual,) * self.count
            object.__setattr__(self, name, given)
            good = all(math.isfinite(each) and (name == "mean" or each > 0) for each in given)
            if len(given) != self.count or not good:
                above = "" if name == "mean" else ", above 0"
                raise InputError(f"{name} must be {self.count} finite numbers{above}, one per value, not {given}.")

    @classmethod
    def of(cls, y: Tensor, read: Callable[[Any], Tensor] | None = None) -> "Values":
        """The values of a training part, [N, V] or [N]. One that never changes gets the deviation 1.

        Raises:
            InputError: y is something else, or a value is never known.
        """
        y = torch.as_tensor(y)
        if y.dim() not in (1, 2) or len(y) == 0 or y.is_complex():
            raise InputError(f"the values of a training part must have the shape [N] or [N, V], not {list(y.shape)}.")
        columns = y.double().reshape(len(y), -1)
        known = ~columns.isnan()
        if not bool(known.any(0).all()):
            raise InputError("a value is not known (NaN) in any sample: leave that column out.")
        mean = columns.nanmean(0)
        std = (columns - mean).square().nanmean(0).sqrt()
        std = torch.where(std > 1e-12 * mean.abs(), std, 1.0)
        return cls(columns.shape[1], tuple(mean.tolist()), tuple(std.tolist()), read=read)

    @property
    def rows(self) -> int:
        return self.count * ROWS

    @property
    def outputs(self) -> int:
        """Numbers that the last block gives for a sample, or for each of its positions."""
        return self.count

    def shape(self, output: torch.Size) -> torch.Size:
        return torch.Size((*output[:-1], self.count))

    def misfit(self, output: torch.Size) -> str | None:
        if len(output) in (2, 3) and output[-1] == self.outputs:
            return None
        return (
            f"the last block gives {list(output[1:])} values per sample, but there are {self.count} targets: end the "
            f"model with a layer of {self.outputs} outputs, or give values={output[-1]}."
        )

    def asked(self, y: Any) -> Asked:
        """As of any target; [B] is read as [B, 1] where there is one value, and whole numbers as floats.

        Raises:
            InputError: they are no numbers.
        """
        found = super().asked(y)
        values = values_of(found)
        if values.is_complex() or values.dtype == torch.bool:
            raise InputError(f"values must be numbers, not {values.dtype}.")
        column = values.unsqueeze(1) if values.dim() == 1 and self.count == 1 else values
        if column is values and values.is_floating_point():
            return found
        return Target(given_of(found), weight_of(found), column if column.is_floating_point() else column.float())

    def check(self, target: Asked) -> None:
        """Refuse values of another shape, infinite ones, and ones far outside of what the mean and std say.

        Raises:
            InputError: they cannot be right.
        """
        target = self.asked(target)
        y = values_of(target)
        if y.dim() not in (2, 3) or y.shape[-1] != self.count:
            raise InputError(f"values must have the shape [batch, {self.count}], not {list(y.shape)}.")
        check_weight(target)
        far = self.scaled(y).abs().nan_to_num(0.0, posinf=math.inf)
        if bool(torch.isinf(far).any()):
            raise InputError("a value is infinite: mend it, or give NaN where it is not known.")
        if bool((far > FAR).any()):
            raise InputError(
                f"a value lies {far.max().item():.3g} deviations from the mean: the network learns values in units of "
                "their deviation. Give values=Values.of(y) with y of the training part."
            )

    def fit(self, target: Asked, expected: torch.Size) -> None:
        """Refuse values of another shape than the output asks for.

        Raises:
            InputError: their shape is another one.
        """
        if values_of(target).shape != expected:
            raise InputError(
                f"values of shape {list(values_of(target).shape)} do not fit the network's output, which needs "
                f"{list(expected)}."
            )

    def scaled(self, y: Tensor) -> Tensor:
        """Values in their own units → in deviations from the mean."""
        return (y - y.new_tensor(self.mean)) / y.new_tensor(self.std)

    def unscaled(self, z: Tensor) -> Tensor:
        """Deviations from the mean, as the plain module gives them → values in their own units."""
        return z * z.new_tensor(self.std) + z.new_tensor(self.mean)

    # --- losses

    def loss(self, logits: Tensor, target: Asked, smoothing: float = 0.0) -> Tensor:
        """Mean cross-entropy of row scores [B, V · ROWS] with the shares of the target, over the values known."""
        rows = self._rows(target)
        scores = logits.unflatten(-1, (self.count, ROWS))
        check_shape(rows[..., 0], scores.shape[:-1])
        return self._mean(-(rows * scores.log_softmax(-1)).sum(-1), target)

    def output_loss(self, output: Tensor, target: Asked, smoothing: float = 0.0) -> Tensor:
        """Mean squared error in squared deviations, over the values known."""
        self.fit(target, output.shape)
        wanted = self.scaled(values_of(target).to(output.dtype)).nan_to_num(0.0)
        return self._mean((output - wanted).square(), target)

    def _mean(self, each: Tensor, target: Asked) -> Tensor:
        return weighted_mean(each, self._of_values(target).to(each.dtype))

    def _of_values(self, target: Asked) -> Tensor:
        """How much every value counts, [B, V]."""
        known, weight = ~values_of(target).isnan(), weight_of(target)
        return known.float() if weight is None else known * spread(weight, known)

    def weights(self, target: Asked) -> Tensor:
        """[B]: the mean over the values that are known."""
        known = ~values_of(target).isnan()
        return mean_of_real(self._of_values(target).movedim(-1, 1), known.movedim(-1, 1))

    def missing(self, y: Tensor, where: Tensor) -> Tensor | None:
        return y.masked_fill(where.unsqueeze(-1), math.nan) if y.dim() == 3 and y.shape[:2] == where.shape else None

    def _rows(self, target: Asked) -> Tensor:
        """The share of every row, [B, V, ROWS]; zeros where a value is not known."""
        z = self.scaled(values_of(target).float())
        place = (z.nan_to_num(0.0).clamp(-REACH, REACH) + REACH) * ((ROWS - 1) / (2 * REACH))
        distance = (place.unsqueeze(-1) - torch.arange(ROWS, device=z.device)).abs()
        return (1 - distance).clamp(min=0) * (~z.isnan()).unsqueeze(-1)

    def one_hot(self, target: Asked) -> Tensor:
        return self._rows(self.asked(target)).flatten(-2)

    def pick(self, table: Tensor, target: Asked) -> Tensor:
        """The sum over a sample's values of the messages of their two rows."""
        rows = self.one_hot(target).to(table.dtype)
        if rows.dim() == 2:
            return torch.einsum("br,r...->b...", rows, table)
        return torch.einsum("bpr,rp...->bp...", rows, table.expand(-1, rows.shape[1], *table.shape[2:]))

    # --- what is predicted and measured

    def as_logits(self, scores: Tensor) -> Tensor:
        """Row scores [B, V · ROWS] → the expected values [B, V]; the output block gives those already."""
        if scores.shape[-1] == self.count:
            return scores
        shares = scores.float().unflatten(-1, (self.count, ROWS)).softmax(-1)
        return shares @ centres(shares)

    def sums(self, logits: Tensor, target: Asked) -> Tensor:
        """[0, known values], then per value: how many, Σ|error|, Σ error², Σ z, Σ z², all in deviations."""
        y = values_of(self.asked(target))
        answered = logits.double()
        self.fit(y, answered.shape)
        z = self.scaled(y.double())
        known = (~z.isnan()).double()
        z, error = z.nan_to_num(0.0), (answered - z.nan_to_num(0.0)) * known
        each = torch.stack([known, error.abs(), error.square(), z, z.square()]).flatten(1, -2).sum(1)
        total = known.sum()
        return torch.cat([torch.stack([torch.zeros_like(total), total]), each.flatten()])

    def figures(self, sums: Tensor) -> dict[str, float]:
        """RMSE and MAE in the units of the values, and R² where it is defined; of several values the mean over them."""
        count, absolute, square, total, total_square = sums[2:].double().cpu().view(5, self.count)
        count, std = count.clamp(min=1), torch.tensor(self.std, dtype=torch.float64)
        spread_of = total_square - total.square() / count
        varies = spread_of > 0
        found = {
            "rmse": ((square / count).sqrt() * std).mean().item(),
            "mae": (absolute / count * std).mean().item(),
        }
        return {**found, "r2": (1 - square / spread_of)[varies].mean().item()} if varies.any() else found

    def values(self, probabilities: Tensor) -> Tensor:
        """What is predicted in a prediction's `probabilities`, in the values' own units."""
        return probabilities

    def probabilities(self, logits: Tensor) -> Tensor:
        """The values in their own units, [B, V]."""
        return self.unscaled(logits.float())

    def label(self, probabilities: Tensor) -> Tensor:
        """Values have none.

        Raises:
            InputError: always.
        """
        raise InputError("this network predicts values, not classes: read .values of its prediction.")

    def confidence(self, probabilities: Tensor) -> Tensor:
        """Values have none.

        Raises:
            InputError: always.
        """
        raise InputError("a predicted value has no probability: read .values of the prediction.")

    def row_errors(self, errors: Tensor) -> Tensor:
        """∂L/∂values [B, V] → along the places of every value's rows, so that its feedback is one random direction."""
        return (errors.unsqueeze(-1) * F.normalize(centres(errors), dim=0)).flatten(-2)


def centres(like: Tensor) -> Tensor:
    """Where the rows of a value lie, in deviations, [ROWS]."""
    return torch.linspace(-REACH, REACH, ROWS, device=like.device, dtype=like.dtype)
