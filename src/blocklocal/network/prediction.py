"""What a network says of a batch: probabilities, labels, and how sure it is."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from blocklocal._common.errors import InputError
from blocklocal.block.targets import Targets, Values, combined


@dataclass(frozen=True)
class Prediction:
    """What a network says of a batch.

    Attributes:
        probabilities: [B, C] of the classes ([B, T, C] for sequences, [B, C, H, W] for pixels); for binary labels
            [B, L], of every "yes". Of a network that predicts values they are the `values`.
        blocks: the same from every block, None where a block cannot predict.
        combined: what all of them say together (their normalised geometric mean), None where only the output predicts.
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
        return self.probabilities

    @property
    def label(self) -> Tensor:
        return self.targets.label(self.probabilities)

    @property
    def confidence(self) -> Tensor:
        return self.targets.confidence(self.probabilities)


def predictions(targets: Targets, logits: list[Tensor | None]) -> Prediction:
    """What the blocks' logits (`block_logits`) say."""
    *blocks, together = [
        None if scores is None else Prediction(targets.probabilities(scores), targets)
        for scores in (*_comparable(targets, logits), combined(targets, logits))
    ]
    if blocks[-1] is None:
        raise InputError("the output answers no targets, it is for output_loss= alone: call the network itself.")
    return replace(blocks[-1], blocks=tuple(blocks), combined=together)


def _comparable(targets: Targets, logits: list[Tensor | None]) -> list[Tensor | None]:
    """The blocks' logits in the resolution of the output's; None where an output answers no targets."""
    last = logits[-1]
    if last is None or targets.hidden:
        return [None for _ in logits]
    return [None if each is None else targets.resized(each, last) for each in logits]
