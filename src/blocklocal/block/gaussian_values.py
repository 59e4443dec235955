"""Values with how sure they are: a mean and a variance of every value.

Every block predicts a Gaussian N(m, v) per value. The last block gives 2·V numbers, the means and what becomes the
variances (Nix & Weigend 1994, "Estimating the mean and variance of the target probability distribution"). A hidden
block's shares of the rows (`values.py`) have a mean and a variance already.

As logits stand the natural parameters of the Gaussians, φ = (m/v, -1/(2v)) (`families.gaussian`). So what all blocks
say together is as of any other prediction the mean of their logits (the normalised geometric mean of Gaussians: each
counts as much as it is sure), and logits divided by a temperature T are a Gaussian of the same mean and T times the
variance.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from blocklocal._common.errors import InputError
from blocklocal.block.target import Asked, values_of
from blocklocal.block.values import ROWS, Values, centres

LEAST = 1e-4  # variance, in squared deviations
BETA = 0.5
INSIDE = 0.9  # the probability of the interval of which the coverage is measured


@dataclass(frozen=True)
class GaussianValues(Values):
    """`count` numbers per sample, of which a mean and a variance each are predicted.

    Targets are as of `Values`. The model ends with a layer of 2·`count` outputs: the means, then the variances before
    their softplus.

        network = BlockLocal(split(model, 4), values=GaussianValues.of(y_train))
        network.predict(x).values, network.predict(x).variance      # [B, V] each
        low, high = network.predict(x).interval(0.9)

    Attributes:
        mean, std: as of `Values`: of every value in the training part.
    """

    measures: ClassVar[tuple[str, ...]] = ("rmse", "mae", "r2", "gaussian_nll", "inside90")
    output_name = "likelihood"

    @property
    def outputs(self) -> int:
        return 2 * self.count

    def output_loss(self, output: Tensor, target: Asked, smoothing: float = 0.0) -> Tensor:
        """The β-NLL: -log N(y; m, v) of every value times v^β, v held fixed in it, over the values known.

        With β = ½ a value that is badly fitted is not given up with a large variance (Seitzer et al. 2022, arXiv
        2203.09168, Eq. 8).
        """
        mean, variance = self._moments(self.as_logits(output))
        self.fit(target, mean.shape)
        nll = _nll(mean, variance, self.scaled(values_of(target).to(output.dtype)).nan_to_num(0.0))
        return self._mean(nll * variance.detach() ** BETA, target)

    def likelihood(self, output: Tensor, target: Asked) -> Tensor:
        """The mean of -log N(y; m, v), in nats per value in its own units."""
        return output.new_tensor(self.figures(self.measure(output, target))["gaussian_nll"])

    def as_logits(self, scores: Tensor) -> Tensor:
        """[B, 2·V]: m/v of every value, then -1/(2v), in deviations; of row scores or of the output."""
        if scores.shape[-1] == self.outputs:
            mean, raw = (scores if scores.dtype == torch.float64 else scores.float()).chunk(2, -1)
            variance = F.softplus(raw) + LEAST
        else:
            shares = scores.float().unflatten(-1, (self.count, ROWS)).softmax(-1)
            places = centres(shares)
            mean = shares @ places
            variance = (shares @ places.square() - mean.square()).clamp(min=LEAST)
        return torch.cat([mean / variance, -0.5 / variance], -1)

    def _moments(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance [B, V], in deviations."""
        eta, rate = logits.chunk(2, -1)
        variance = -0.5 / rate
        return eta * variance, variance

    def sums(self, logits: Tensor, target: Asked) -> Tensor:
        """As of `Values`, then per value: Σ -log N(y; m, v) in deviations, and how many lie inside their interval."""
        mean, variance = self._moments(logits.double())
        known = super().sums(mean, target)
        y = self.scaled(values_of(self.asked(target)).double())
        there = ~y.isnan()
        nll = _nll(mean, variance, y).masked_fill(~there, 0.0)
        inside = ((y - mean).abs() <= z_score(INSIDE) * variance.sqrt()) & there
        return torch.cat([known, torch.stack([nll, inside.double()]).flatten(1, -2).sum(1).flatten()])

    def figures(self, sums: Tensor) -> dict[str, float]:
        """As of `Values`, and of the Gaussians nats per value in its own units, and percent inside their intervals."""
        usual, own = sums[: -2 * self.count], sums[-2 * self.count :]
        nll, inside = own.double().cpu().view(2, self.count)
        count, std = usual[2 : 2 + self.count].double().cpu().clamp(min=1), torch.tensor(self.std, dtype=torch.float64)
        return {
            **super().figures(usual),
            "gaussian_nll": (nll / count + std.log()).mean().item(),
            "inside90": 100 * (inside / count).mean().item(),
        }

    def probabilities(self, logits: Tensor) -> Tensor:
        """[B, 2·V]: the means in the values' own units, then the variances in their squares."""
        mean, variance = self._moments(logits.float())
        return torch.cat([self.unscaled(mean), variance * variance.new_tensor(self.std).square()], -1)

    def values(self, probabilities: Tensor) -> Tensor:
        return probabilities[..., : self.count]

    def variance(self, probabilities: Tensor) -> Tensor:
        """The variances of a prediction's `probabilities`, [B, V]."""
        return probabilities[..., self.count :]

    def row_errors(self, errors: Tensor) -> Tensor:
        """As of `Values`, of the errors of the means."""
        return super().row_errors(errors[..., : self.count])


def z_score(coverage: float) -> float:
    """How many standard deviations the central interval of a Gaussian with this probability reaches to each side.

    Raises:
        InputError: it is not between 0 and 1.
    """
    if isinstance(coverage, bool) or not 0 < coverage < 1:
        raise InputError(f"coverage must be a probability between 0 and 1, such as 0.9, not {coverage}.")
    return math.sqrt(2) * torch.erfinv(torch.tensor(coverage, dtype=torch.float64)).item()


def _nll(mean: Tensor, variance: Tensor, y: Tensor) -> Tensor:
    return 0.5 * (math.log(2 * math.pi) + variance.log() + (y - mean).square() / variance)
