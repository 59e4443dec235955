"""What every block says of a validation set: the weights and temperatures that calibrate it, and its answers at these.

K blocks, N answers (of samples, positions or labels, all that have a target), S samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from blocklocal._common.errors import InputError
from blocklocal._common.modes import kept_modes
from blocklocal.block.targets import MISSING, Asked, Classes, Targets, pooled, values_of
from blocklocal.exits.temperature import TEMPERATURES, least, losses_at
from blocklocal.exits.weights import KeptLogits, Weights
from blocklocal.network.edge import Loaded, pair
from blocklocal.network.network import BlockLocal
from blocklocal.uncertainty.foreign import foreign_scores

ENOUGH = 2**16  # tokens, of which a temperature is fitted: each has thousands of logits


@dataclass(frozen=True)
class Answers:
    """Of one way to predict: what it answers as trained, and with its weights and temperature.

    As trained (`…_before`) the temperature is 1, and every block counts the same.

    Attributes:
        temperature: the one that makes the targets most likely.
        label: [N].
        right: [N].
        right_before: [N].
        sure: the probability of the answer, [N].
        truth: that of the target, [N]; what it is where there is none says nothing.
        nll, brier: means over those that have a target, in nats and of the squared distance.
    """

    temperature: float
    label: Tensor
    right: Tensor
    right_before: Tensor
    sure: Tensor
    sure_before: Tensor
    truth: Tensor
    nll: float
    nll_before: float
    brier: float
    brier_before: float


@dataclass(frozen=True)
class BlockAnswers:
    """What the blocks of a network said of a set.

    Attributes:
        own: of every block; None where it cannot predict.
        together: of it and all before it that predict.
        weights: of every block: how much each up to it counts in what they say together; none for the same each.
        sample: of which sample an answer is, [N].
        wanted: whether it has a target, [N]: others cost as much, and are neither right nor wrong.
        samples: how many there are.
        foreign: scores of foreign data (`uncertainty.foreign`), [S] each; none where a sample has several answers.
    """

    own: list[Answers | None]
    together: list[Answers | None]
    weights: Weights
    sample: Tensor
    wanted: Tensor
    samples: int
    foreign: dict[str, Tensor]


def answers_of(network: BlockLocal, batches: Callable[[], Iterable[Loaded]]) -> BlockAnswers:
    """What every block says, in evaluation mode. Three passes: for weights, for temperatures, and for the answers.

    Args:
        batches: gives the batches (x, y) anew at every call.

    Raises:
        InputError: pixels are asked for, or no sample has a target.
    """
    targets = network.targets
    if isinstance(targets, Classes):
        targets = replace(targets, class_weights=None)  # which teach; a probability is of what there is
    with kept_modes([network]), torch.no_grad():
        network.eval()
        kept = KeptLogits(targets)
        for x, y in map(pair, batches()):
            targets.check(y)
            kept.add(_own(targets, network.block_logits(x)), y)
        if not kept.any_target:
            raise InputError("nothing to calibrate on: no sample has a target.")
        weights = kept.fit()
        losses = _Losses(len(network.learners))
        for x, y in map(pair, batches()):
            losses.add(targets, network.block_logits(x), y, weights)
            if targets.large and losses.there >= ENOUGH:
                break
        collected = _Collected(targets, losses.best(), weights)
        for x, y in map(pair, batches()):
            collected.add(network.block_logits(x), y)
    return collected.end()


def _own(targets: Targets, logits: list[Tensor | None]) -> list[Tensor | None]:
    own = [None if each is None else targets.as_logits(each).float() for each in logits]
    if any(each is not None and each.dim() > 3 for each in own):
        raise InputError("calibration needs an answer per sample, label or position: pixels are not made for it.")
    return own


def _ways(own: list[Tensor | None], weights: Weights) -> list[list[Tensor | None]]:
    """[own, together]: the logits of every block, and of it and all before it."""
    together = [
        None if each is None else pooled(own[: k + 1], weights[k] if weights else ()) for k, each in enumerate(own)
    ]
    return [own, together]


class _Losses:
    """The mean log-likelihood of every way at every temperature."""

    def __init__(self, count: int):
        self.sums = torch.zeros(2, count, len(TEMPERATURES), dtype=torch.float64)
        self.there = 0.0

    def add(self, targets: Targets, logits: list[Tensor | None], y: Asked, weights: Weights) -> None:
        wanted = values_of(y)
        count = float((_hard(targets, y) != MISSING).sum())
        for w, way in enumerate(_ways(_own(targets, logits), weights)):
            for k, each in enumerate(way):
                if each is not None and count:
                    self.sums[w, k] += count * losses_at(targets, each, wanted)
        self.there += count

    def best(self) -> list[list[float]]:
        """[own, together]: of every block the temperature with the least loss."""
        if not self.there:
            raise InputError("the batches to fit exits on are read more than once, and were used up by the first pass.")
        return [[least(each / self.there) for each in way] for way in self.sums]


def _hard(targets: Targets, y: Asked) -> Tensor:
    """The answer that is wanted of every sample, position or label; `MISSING` where none is."""
    return targets.hard(y) if isinstance(targets, Classes) else values_of(y).long()


class _Collected:
    """The answers as trained, and with weights and temperatures."""

    def __init__(self, targets: Targets, temperatures: list[list[float]], weights: Weights):
        self.targets, self.temperatures, self.weights = targets, temperatures, weights
        self.kept: list[list[list[dict[str, Tensor]]]] = [[[] for _ in way] for way in temperatures]
        self.sample: list[Tensor] = []
        self.wanted: list[Tensor] = []
        self.samples = 0
        self.foreign: dict[str, list[Tensor]] = {}

    def add(self, logits: list[Tensor | None], y: Asked) -> None:
        wanted = _hard(self.targets, y)
        there = wanted != MISSING
        of = torch.arange(len(wanted)).view(-1, *[1] * (wanted.dim() - 1)).expand_as(wanted)
        self.sample.append(of.flatten() + self.samples)
        self.wanted.append(there.flatten().cpu())
        self.samples += len(wanted)
        if wanted.dim() == 1:
            for name, score in foreign_scores(logits, self.temperatures[0]).items():
                self.foreign.setdefault(name, []).append(score.cpu())
        own = _own(self.targets, logits)
        trained, fitted = (_ways(own, weights) for weights in ((), self.weights))
        for w, way in enumerate(fitted):
            for k, each in enumerate(way):
                if each is not None:
                    before = trained[w][k]
                    assert before is not None
                    self.kept[w][k].append(self._one(before, each / self.temperatures[w][k], wanted, there))

    def _one(self, trained: Tensor, fitted: Tensor, wanted: Tensor, there: Tensor) -> dict[str, Tensor]:
        found = {}
        for name, logits in (("", fitted), ("_before", trained)):
            p = self.targets.probabilities(logits)
            own = _of_wanted(p, wanted)
            found |= {
                f"sure{name}": self.targets.confidence(p).flatten(),
                f"truth{name}": own.flatten(),
                f"nll{name}": -own.clamp(min=1e-30).log()[there].double(),
                f"brier{name}": _brier(p, own, wanted)[there].double(),
            }
            label = self.targets.label(p)
            found |= {f"label{name}": label.flatten(), f"right{name}": (label == wanted).flatten()}
        return {name: t.cpu() for name, t in found.items()}

    def end(self) -> BlockAnswers:
        ways = [
            [self._answers(parts, t) if parts else None for parts, t in zip(way, temperatures, strict=True)]
            for way, temperatures in zip(self.kept, self.temperatures, strict=True)
        ]
        foreign = {name: torch.cat(parts) for name, parts in self.foreign.items()}
        of, wanted = torch.cat(self.sample), torch.cat(self.wanted)
        return BlockAnswers(ways[0], ways[1], self.weights, of, wanted, self.samples, foreign)

    def _answers(self, parts: list[dict[str, Tensor]], temperature: float) -> Answers:
        joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

        def mean(name: str) -> float:
            return joined[name].mean().item()

        return Answers(
            temperature=temperature,
            label=joined["label"],
            right=joined["right"],
            right_before=joined["right_before"],
            sure=joined["sure"],
            sure_before=joined["sure_before"],
            truth=joined["truth"],
            nll=mean("nll"),
            nll_before=mean("nll_before"),
            brier=mean("brier"),
            brier_before=mean("brier_before"),
        )


def _of_wanted(p: Tensor, wanted: Tensor) -> Tensor:
    """The probability of what is wanted: of classes [B, …, C] → [B, …], of labels [B, L] → [B, L]."""
    if p.dim() == wanted.dim():
        return torch.where(wanted == 1, p, 1 - p)
    return p.gather(-1, wanted.clamp(min=0).unsqueeze(-1)).squeeze(-1)


def _brier(p: Tensor, own: Tensor, wanted: Tensor) -> Tensor:
    """Σ_c (p_c − [c is wanted])² (Brier 1950); of a label (1 − p)² twice, as of two classes."""
    if p.dim() == wanted.dim():
        return 2 * (1 - own).square()
    return p.square().sum(-1) - 2 * own + 1
