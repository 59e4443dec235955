"""The local loss of one block: where the forward and the backward message meet.

A hidden block owns a twin, perhaps a readout and a decoder, and matches messages on its latent. The output block's
posterior is the target itself, so its loss is the ordinary cross-entropy (method §2).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import cast

import torch
import torch.nn as nn
from torch import Tensor

from blocklocal.block.auxiliary import Decoder, similarity
from blocklocal.block.objectives import Objective, Terms, scores
from blocklocal.block.shapes import Layout, to_positions
from blocklocal.block.targets import Targets, mean_of_real, without_padding
from blocklocal.block.twin import Twin
from blocklocal.families import Family


@dataclass
class LocalResult:
    """What a local loss says of one batch. `parts` hold the weighted terms whose sum is `loss`."""

    loss: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)
    scores: Tensor | None = None  # [B, rows] or [B, T, rows]: the block's own logits, detached
    message_size: Tensor | None = None  # mean |b|
    right: Tensor | None = None  # [2]: (number right, number of targets), in the place of the scores
    mask: Tensor | None = None  # [B, T]: the positions that count; None for all

    def counted(self, targets: Targets, y: Tensor) -> "LocalResult":
        """The same with the scores counted against the targets y, which takes two numbers instead of [B, …, rows]."""
        if self.scores is None:
            return self
        right = targets.correct(self.scores, without_padding(targets, y, self.mask))
        return replace(self, scores=None, mask=None, right=torch.stack(right))


class OutputLoss(nn.Module):
    """Cross-entropy of the last block's logits with the target."""

    learns = predicts = True

    def __init__(self, targets: Targets, smoothing: float):
        super().__init__()
        self.targets, self.smoothing = targets, smoothing

    def forward(self, a: Tensor, target: Tensor, *, mask: Tensor | None = None, **_: object) -> LocalResult:
        target = without_padding(self.targets, target, mask)
        loss = self.targets.loss(a.float(), target, self.smoothing)
        return LocalResult(loss, {"cross-entropy": loss.detach()}, a.detach(), mask=mask)

    def scores(self, a: Tensor, message: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        return a


class HiddenLoss(nn.Module):
    """A hidden block's loss: messages matched on the latent h_k(a_k), plus the auxiliary losses that are switched on.

    Args:
        objective: None for the local cross-entropy of the block's own linear classifier (greedy), where it has one.
        weights: of the auxiliary losses that are on: "similarity" and one per decoder ("image", "input").
        message_scale: 1/√units for flat latents and sequences, so that logits are of order one at the start; 1 for
            maps, which average over positions instead (method §3, "Scale").
        normaliser: what the output passes before all else here, off the forward path (`normalisation.py`).
        layouts: of the "output", and of what the decoders predict ("image", "input"), where it is not as it is seen
            here.
    """

    def __init__(
        self,
        *,
        family: Family,
        objective: Objective | None,
        targets: Targets,
        twin: Twin | None = None,
        classifier: nn.Linear | None = None,
        readout: nn.Module | None = None,
        decoders: Mapping[str, Decoder] | None = None,
        weights: Mapping[str, float] | None = None,
        terms: Terms | None = None,
        message_scale: float,
        normaliser: nn.Module | None = None,
        layouts: Mapping[str, Layout] | None = None,
    ):
        super().__init__()
        self.family, self.objective, self.targets = family, objective, targets
        self.twin, self.classifier, self.readout = twin, classifier, readout
        self.decoders = nn.ModuleDict(decoders or {})
        self.weights, self.terms = dict(weights or {}), terms or Terms()
        self.message_scale, self.normaliser = message_scale, normaliser
        self.layouts = dict(layouts or {})

    @property
    def learns(self) -> bool:
        """Whether this block has a loss of its own (a block under direct feedback has none)."""
        return self.objective is not None or self.classifier is not None

    def latent(self, a: Tensor, features: Tensor) -> Tensor:
        """Natural parameters [B, P, U, …] of the forward message: of a_k itself, or of the readout of its features."""
        raw = a if self.readout is None else self.readout(features)
        return self.family.natural(self.family.group(to_positions(raw).float()))

    def features(self, a: Tensor) -> Tensor:
        """What readout and parts read, as the next block does: the mean of the forward message, in a_k's own layout.

        a_k itself where nothing reads it, so that autograd keeps no second map.
        """
        if self.family.event_dims or (self.readout is None and not self.weights):
            return a
        return self.family.mean(self.family.natural(a))

    def message(self, raw: Tensor) -> Tensor:
        """The twin's raw output → b [R, P', U, …] as natural parameters of the latent's family."""
        return self.family.message(self.family.group(to_positions(raw).float() * self.message_scale))

    @property
    def predicts(self) -> bool:
        """Whether this block can classify by itself."""
        return self.classifier is not None or self.twin is not None

    def read(self, a: Tensor) -> Tensor:
        """The output as the local loss reads it: a_k itself, or normalised."""
        a = self._seen("output", a)
        return a if self.normaliser is None else self.normaliser(a)

    def _seen(self, name: str, a: Tensor) -> Tensor:
        return self.layouts[name].view(a) if name in self.layouts else a

    def scores(self, a: Tensor, message: Tensor | None, mask: Tensor | None = None) -> Tensor:
        """The evidence of every target row, [B, R] (or a greedy block's logits): this block's own prediction."""
        a = self.read(a)
        return self._scores(self.latent(a, self.features(a)), message, replace(self.terms, mask=mask))

    def _scores(self, phi: Tensor, message: Tensor | None, terms: Terms) -> Tensor:
        if self.classifier is not None:
            mean = self.family.mean(phi).flatten(2)
            return self.classifier(mean if terms.per_position else mean_of_real(mean, terms.mask))
        assert message is not None
        return scores(self.family, phi, message, terms)

    def forward(
        self,
        a: Tensor,
        target: Tensor,
        *,
        message: Tensor | None,
        wanted: Mapping[str, Tensor],
        mix: float,
        mask: Tensor | None = None,
    ) -> LocalResult:
        """The local loss of one batch.

        Args:
            a: the block's output [B, …].
            message: [R, P', U, …].
            wanted: the tensors that the decoders predict.
            mix: the data-mixing weight m (`mixing`).
            mask: of a sequence [B, T, D] the positions that are real, [B, T]; None where all are.
        """
        a, target = self.read(a), without_padding(self.targets, target, mask)
        features = self.features(a)
        phi, terms = self.latent(a, features), replace(self.terms, mix=mix, mask=mask)
        name, loss, logits = self._match(phi, message, target, terms)
        parts = {name: loss}
        if "similarity" in self.weights:
            parts["similarity"] = self.weights["similarity"] * similarity(features, self.targets.one_hot(target), mask)
        for name, decoder in self.decoders.items():
            seen = self._seen(name, wanted[name])
            parts[name] = self.weights[name] * cast(Decoder, decoder).loss(features, seen, mask)
        total = torch.stack(list(parts.values())).sum()
        detached = {name: part.detach() for name, part in parts.items()}
        size = None if message is None else message.detach().abs().mean()
        return LocalResult(total, detached, None if logits is None else logits.detach(), size, mask=mask)

    def _match(self, phi: Tensor, message: Tensor | None, target: Tensor, terms: Terms) -> tuple:
        if self.objective is None:
            logits = self._scores(phi, message, terms)
            return "greedy", self.targets.loss(logits, target, terms.smoothing), logits
        assert message is not None
        return self.objective.name, *self.objective.compute(self.family, phi, message, self.targets, target, terms)
