"""The local loss of one block: where the forward and the backward message meet.

A hidden block owns a twin, perhaps a readout and a decoder, and matches messages on its latent. The output block's
posterior is the target itself, so its loss is the ordinary cross-entropy (method §2).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
import torch.nn as nn
from torch import Tensor

from blocklocal._common.errors import InputError, shown
from blocklocal.block.auxiliary import Reconstructor, similarity
from blocklocal.block.objectives import Match, Objective, Terms, scores
from blocklocal.block.shapes import Layout, to_positions
from blocklocal.block.target import given_of, weight_of
from blocklocal.block.targets import Asked, Targets, measured, units_last
from blocklocal.block.twin import Twin
from blocklocal.block.views import barlow_twins, consistency
from blocklocal.block.weighting import mean_of_real
from blocklocal.families import Family


@dataclass
class LocalResult:
    """What a local loss says of one batch. `parts` hold the weighted terms whose sum is `loss`."""

    loss: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)
    scores: Tensor | None = None  # [B, rows] or [B, T, rows]: the block's own logits, detached
    message_size: Tensor | None = None  # mean |b|
    sums: Tensor | None = None  # of which figures are made (`Targets.measure`), in the place of the scores
    mask: Tensor | None = None  # [B, T]: the positions that are real; None where all are

    def counted(self, targets: Targets, y: Asked) -> "LocalResult":
        """The same with the scores measured against the targets y: a few sums instead of [B, …, rows]."""
        if self.scores is None:
            return self
        sums = measured(targets, self.scores, targets.without_padding(targets.asked(y), self.mask))
        return replace(self, scores=None, mask=None, sums=sums)


OwnLoss = Callable[[Any, Any], Tensor]
"""A user's own loss: (output, y as the loader gave it) → one number with its graph."""


class OutputLoss(nn.Module):
    """The loss of the last block: of its targets (cross-entropy, squared error), or the user's `own`.

    Args:
        twin: what the block sends back (`shared.TableSource`); None where the blocks before read the target itself.
        consistency: weight of the consistency of two views (`views`).
    """

    learns = predicts = True

    def __init__(
        self,
        targets: Targets,
        smoothing: float,
        own: OwnLoss | None = None,
        twin: Twin | None = None,
        consistency: float = 0.0,
    ):
        super().__init__()
        self.targets, self.smoothing, self.own, self.twin = targets, smoothing, own, twin
        self.consistency = consistency

    def forward(self, a: Tensor, target: Asked, *, mask: Tensor | None = None, **_: object) -> LocalResult:
        if self.own is None:
            target = self.targets.without_padding(target, mask)
            name, loss = self.targets.output_name, self.targets.output_loss(a.float(), target, self.smoothing)
        else:
            name, loss = "own loss", self.own(a.float(), given_of(target))
            if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.is_floating_point():
                raise InputError(f"output_loss must give one number, a tensor with its graph, not {shown(loss)}.")
            loss = loss.reshape(())
        parts = {name: loss}
        if self.consistency and self.own is None:
            parts["consistency"] = self.consistency * consistency(self.targets, units_last(a.float()), target, mask)
        scores = None if self.targets.hidden else units_last(a.detach())
        total = torch.stack(list(parts.values())).sum() if len(parts) > 1 else loss
        found = LocalResult(total, {part: each.detach() for part, each in parts.items()}, scores, mask=mask)
        return found.counted(self.targets, target) if self.targets.large else found

    def scores(self, a: Tensor, message: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        return units_last(a)


class HiddenLoss(nn.Module):
    """A hidden block's loss: messages matched on the latent h_k(a_k), plus the auxiliary losses that are switched on.

    Args:
        objective: None for the local cross-entropy of the block's own linear classifier (greedy), where it has one.
        weights: of the auxiliary losses that are on: "similarity", "consistency", "barlow" and one per decoder
            ("image", "input").
        prior: whether the block learns the log prior of the target rows; else it is uniform (method §3).
        gain: whether the block learns a factor of its natural parameters, the inverse of a temperature.
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
        decoders: Mapping[str, Reconstructor] | None = None,
        weights: Mapping[str, float] | None = None,
        terms: Terms | None = None,
        message_scale: float,
        normaliser: nn.Module | None = None,
        layouts: Mapping[str, Layout] | None = None,
        prior: bool = False,
        gain: bool = False,
    ):
        super().__init__()
        self.family, self.objective, self.targets = family, objective, targets
        self.twin, self.classifier, self.readout = twin, classifier, readout
        self.decoders = nn.ModuleDict(decoders or {})
        self.weights, self.terms = dict(weights or {}), terms or Terms()
        self.message_scale, self.normaliser = message_scale, normaliser
        self.layouts = dict(layouts or {})
        self.prior = nn.Parameter(torch.zeros(targets.rows)) if prior else None
        self.gain = nn.Parameter(torch.ones(())) if gain else None

    @property
    def learns(self) -> bool:
        """Whether this block has a loss of its own (a block under direct feedback has none)."""
        return self.objective is not None or self.classifier is not None

    @property
    def matches(self) -> bool:
        """Whether forward and backward message are matched: else auxiliary losses alone train the block."""
        return self.objective is None or self.objective.matches

    def latent(self, a: Tensor, features: Tensor) -> Tensor:
        """Natural parameters [B, P, U, …] of the forward message: of a_k itself, or of the readout of its features."""
        return self.latent_on_grid(a, features)[0]

    def latent_on_grid(self, a: Tensor, features: Tensor) -> tuple[Tensor, torch.Size]:
        """The forward message, of a_k itself or of the readout of its features, and where its positions lie.

        Returns:
            Natural parameters [B, P, U, …]; and the grid of the positions: (), (T,) or (H, W).
        """
        raw = a if self.readout is None else self.readout(features)
        grid = raw.shape[2:] if raw.dim() > 3 else raw.shape[1:-1]
        raw = to_positions(raw).float()
        return self.family.natural(self.family.group(raw if self.gain is None else raw * self.gain)), grid

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
        phi, grid = self.latent_on_grid(a, self.features(a))
        return self._placed(self._scores(phi, message, replace(self.terms, mask=mask, prior=self.prior)), grid)

    def _placed(self, scores: Tensor, grid: torch.Size) -> Tensor:
        """Where pixels have targets, the scores of all positions where they lie: [B, P, R] → [B, H, W, R]."""
        return scores.reshape(len(scores), *grid, scores.shape[-1]) if self.terms.pixels else scores

    def _scores(self, phi: Tensor, message: Tensor | None, terms: Terms) -> Tensor:
        if self.classifier is not None:
            mean = self.family.mean(phi).flatten(2)
            return self.classifier(mean if terms.per_position else mean_of_real(mean, terms.mask))
        assert message is not None
        return scores(self.family, phi, message, terms)

    def forward(
        self,
        a: Tensor,
        target: Asked,
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
        a = self.read(a)
        features, weight = self.features(a), weight_of(target)
        terms = replace(self.terms, mix=mix, mask=mask, prior=self.prior)
        if not self.training:
            terms = replace(terms, negatives=1.0)
        phi, grid = self.latent_on_grid(a, features)
        target = self.targets.at(self.targets.without_padding(target, mask), grid)
        name, match = self._match(phi, message, target, terms)
        parts = {name: match.loss} if self.matches else {}
        if "similarity" in self.weights:
            parts["similarity"] = self.weights["similarity"] * similarity(
                features, self.targets.one_hot(target), mask, self.targets.weights(target)
            )
        if "consistency" in self.weights:
            scores = self._scores(phi, message, terms) if match.scores is None else match.scores
            parts["consistency"] = self.weights["consistency"] * consistency(self.targets, scores, target, mask)
        if "barlow" in self.weights:
            units = mean_of_real(self.family.mean(phi).flatten(2), mask)
            parts["barlow"] = self.weights["barlow"] * barlow_twins(units)
        for name, decoder in self.decoders.items():
            parts[name] = self.weights[name] * cast(Reconstructor, decoder).loss(
                features, self._seen(name, wanted[name]), mask, weight
            )
        total = torch.stack(list(parts.values())).sum()
        detached = {name: part.detach() for name, part in parts.items()}
        size = None if message is None else message.detach().abs().mean()
        scores = None if match.scores is None else self._placed(match.scores.detach(), grid)
        found = LocalResult(total, detached, scores, size, match.sums, mask)
        return found.counted(self.targets, target) if self.targets.large else found

    def _match(self, phi: Tensor, message: Tensor | None, target: Asked, terms: Terms) -> tuple[str, Match]:
        if self.objective is None:
            logits = self._scores(phi, message, terms)
            return "greedy", Match(self.targets.loss(logits, target, terms.smoothing), logits)
        assert message is not None or not self.matches
        table = cast(Tensor, message)  # an objective that matches none does not read it
        return self.objective.name, self.objective.compute(self.family, phi, table, self.targets, target, terms)
