"""What a network says of a batch: probabilities, labels, and how sure it is."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from blocklocal._common.errors import InputError
from blocklocal.block.gaussian_values import GaussianValues, z_score
from blocklocal.block.targets import Targets, Values, combined

ROUNDING = 1e-3  # by which shares may miss 1


@dataclass(frozen=True)
class Prediction:
    """What a network says of a batch.

    Attributes:
        probabilities: [B, C] of the classes ([B, T, C] for sequences, [B, C, H, W] for pixels); for binary labels
            [B, L], of every "yes". Of a network that predicts values they are the `values`, with their variances
            behind them where it predicts these too.
        blocks: the same from every block, None where a block cannot predict.
        combined: what all of them say together (their normalised geometric mean, with weights where temperatures have
            them), None where only the output predicts.
        label, confidence: [B] (or [B, T]), the most probable class and its probability; for binary labels [B, L], 0 or
            1 and the probability of that answer.
    """

    probabilities: Tensor
    targets: Targets
    blocks: Sequence["Prediction | None"] = ()
    combined: "Prediction | None" = None

    @property
    def values(self) -> Tensor:
        """The predicted values [B, V], in their own units.

        Raises:
            InputError: the network does not predict values.
        """
        if not isinstance(self.targets, Values):
            raise InputError("this network predicts classes or labels, not values: read .label or .probabilities.")
        return self.targets.values(self.probabilities)

    @property
    def variance(self) -> Tensor:
        """The predicted variances [B, V], in squares of the values' units.

        Raises:
            InputError: the network predicts none.
        """
        if not isinstance(self.targets, GaussianValues):
            raise InputError("this network predicts no variance: give values=GaussianValues.of(y).")
        return self.targets.variance(self.probabilities)

    def interval(self, coverage: float = 0.9) -> tuple[Tensor, Tensor]:
        """The ends of the central interval that holds a value with this probability, [B, V] each, in its own units.

        Args:
            coverage: the probability, between 0 and 1. It is right where the variances are: for intervals that are
                measured on validation data see `uncertainty.intervals`.

        Raises:
            InputError: the network predicts no variance, or the probability is not between 0 and 1.
        """
        half = z_score(coverage) * self.variance.sqrt()
        return self.values - half, self.values + half

    @property
    def label(self) -> Tensor:
        return self.targets.label(self.probabilities)

    @property
    def confidence(self) -> Tensor:
        return self.targets.confidence(self.probabilities)


@dataclass(frozen=True)
class Temperatures:
    """By what logits are divided and how much blocks count, so that probabilities and variances mean what they say.

    `fit_exits` and `blocklocal calibrate` fit them.

    Attributes:
        blocks: of every block.
        combined: of all of them together.
        weights: of every block, how much it counts in what all say together; none for the same each.

    Raises:
        InputError: a temperature is not a finite number above 0, or the weights are no shares of 1, one per block.
    """

    blocks: tuple[float, ...]
    combined: float = 1.0
    weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for each in (*self.blocks, self.combined):
            if not 0 < each < float("inf"):
                raise InputError(f"a temperature must be a finite number above 0, not {each}.")
        if self.weights:
            check_weights(self.weights, len(self.blocks))

    def check(self, count: int) -> None:
        """Look whether they are for a network of so many blocks.

        Args:
            count: of the blocks.

        Raises:
            InputError: they are for another number.
        """
        if len(self.blocks) != count:
            raise InputError(f"there are {len(self.blocks)} temperatures, and the network has {count} blocks.")


def are_shares(weights: Sequence[float], count: int) -> bool:
    """Whether these are so many shares of 1."""
    return len(weights) == count and all(0 <= each <= 1 for each in weights) and abs(sum(weights) - 1) <= ROUNDING


def check_weights(weights: Sequence[float], count: int) -> None:
    """Look whether they are shares of 1.

    Args:
        count: of the blocks that they are for.

    Raises:
        InputError: they are not, or are for another number of blocks.
    """
    if not are_shares(weights, count):
        raise InputError(f"weights of {count} blocks must be {count} shares of 1, not {tuple(weights)}.")


def predictions(targets: Targets, logits: list[Tensor | None], temperatures: Temperatures | None = None) -> Prediction:
    """What the blocks' logits (`block_logits`) say.

    Raises:
        InputError: the output answers no targets, or the temperatures are for another number of blocks or for nothing.
    """
    divide = temperatures or Temperatures((1.0,) * len(logits))
    divide.check(len(logits))
    plain = isinstance(targets, Values) and not isinstance(targets, GaussianValues)
    if plain and {*divide.blocks, divide.combined} != {1.0}:
        raise InputError("temperatures change probabilities and variances, and this network predicts values alone.")
    said = (*_comparable(targets, logits), combined(targets, logits, divide.weights))
    *blocks, together = [
        None if each is None else Prediction(targets.probabilities(each / t), targets)
        for each, t in zip(said, (*divide.blocks, divide.combined), strict=True)
    ]
    if blocks[-1] is None:
        raise InputError("the output answers no targets, it is for output_loss= alone: call the network itself.")
    return replace(blocks[-1], blocks=tuple(blocks), combined=together)


def _comparable(targets: Targets, logits: list[Tensor | None]) -> list[Tensor | None]:
    """What the blocks say, in the resolution of the output's; None where an output answers no targets."""
    last = logits[-1]
    if last is None or targets.hidden:
        return [None for _ in logits]
    return [None if each is None else targets.as_logits(targets.resized(each, last)) for each in logits]
