"""One network looked at block by block: linear probes, own predictions, and what outputs still tell about the image."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from blocklocal._common.errors import InputError
from blocklocal._common.modes import kept_modes
from blocklocal.block.targets import Classes, Targets
from blocklocal.diagnose.outputs import as_read, block_outputs
from blocklocal.diagnose.probes import probe_accuracy, probe_features
from blocklocal.diagnose.reconstruct import Moments, explained, rows
from blocklocal.families import Family
from blocklocal.network.network import BlockLocal
from blocklocal.rules.base import target_messages

Pairs = Iterable[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Measured:
    """Figures per block, in percent.

    Attributes:
        probe: correct by a linear probe.
        own: correct by the block itself; None where it cannot predict.
        explained: the pixels' variance that a linear map gets back.
    """

    probe: list[float]
    own: list[float | None]
    explained: list[float]

    @classmethod
    def of(cls, figures: Sequence[tuple[float, float | None, float]]) -> "Measured":
        """From (probe, own, explained) of every block."""
        return cls(
            [probe for probe, _, _ in figures], [own for _, own, _ in figures], [share for _, _, share in figures]
        )


@dataclass
class Seen:
    """What is kept of one block's outputs for a split; `right` counts the block's own correct predictions."""

    features: list[Tensor] = field(default_factory=list)
    labels: list[Tensor] = field(default_factory=list)
    moments: Moments | None = None
    right: int | None = None

    def add(self, read: Tensor, image: Tensor, y: Tensor) -> None:
        """Of a batch: what is read of the output, the images less their mean, and the labels."""
        moments = Moments.of(*rows(read, image))
        self.moments = moments if self.moments is None else self.moments + moments
        self.features.append(probe_features(read))
        self.labels.append(y)

    def count_right(self, targets: Targets, logits: Tensor | None) -> None:
        """The block's own logits of the last batch; None where it cannot predict."""
        if logits is not None:
            self.right = (self.right or 0) + int(targets.correct(logits, self.labels[-1])[0])

    @property
    def read(self) -> tuple[Tensor, Tensor]:
        """What a probe reads, and the labels."""
        return torch.cat(self.features), torch.cat(self.labels)


def measured(fitted: Seen, scored: Seen, classes: int) -> tuple[float, float | None, float]:
    """(probe, own, explained) of one block, fitted on one split and scored on the other."""
    assert fitted.moments is not None
    assert scored.moments is not None
    given = fitted.read, scored.read
    own = None if scored.right is None else 100.0 * scored.right / len(given[1][1])
    return probe_accuracy(*given, classes), own, explained(fitted.moments, scored.moments)


def measure(network: BlockLocal, family: Family, fit: Pairs, held: Pairs) -> Measured:
    """Fit probes and reconstructions on some batches and score them on others.

    In evaluation mode; the mode of every part is restored.

    Args:
        family: whose mean the next block is taken to read; the same for all networks that are compared.
        fit, held: batches (x [B, C, H, W], y [B]) to fit on and to score on.

    Raises:
        InputError: outputs are sequences, or the targets are not one class per image.
    """
    if not isinstance(network.targets, Classes):
        raise InputError("a diagnosis fits linear probes of classes, and this network is asked for something else.")
    middle = mean_image(fit)
    with kept_modes([network]):
        network.eval()
        fitted, scored = (_look(network, family, batches, middle) for batches in (fit, held))
    return Measured.of([measured(*seen, network.targets.count) for seen in zip(fitted, scored, strict=True)])


def mean_image(batches: Pairs) -> Tensor:
    """[C, H, W], float32."""
    sums, counts = zip(*((x.double().sum(0), len(x)) for x, _ in batches), strict=True)
    return (torch.stack(sums).sum(0) / sum(counts)).float()


@torch.no_grad()
def _look(network: BlockLocal, family: Family, batches: Pairs, middle: Tensor) -> list[Seen]:
    """What is kept of every block."""
    count = len(network.split.blocks)
    messages = target_messages(network.learners, network.rows)
    seen = [Seen() for _ in range(count)]
    for x, y in batches:
        for k, a in enumerate(block_outputs(network, x)):
            seen[k].add(as_read(a, family if k + 1 < count else None), x - middle, y)
            seen[k].count_right(network.targets, _own_logits(network, k, a, messages))
    return seen


def _own_logits(network: BlockLocal, k: int, a: Tensor, messages: Sequence[Tensor | None]) -> Tensor | None:
    """Block k's own logits [B, C] from its output a; None where it cannot predict."""
    if k + 1 == len(network.split.blocks):
        return a
    return None if network.rule.whole else network.learners[k].scores(a, messages[k])
