"""From blocks to learners: shapes are read off one example; rule and settings say which local loss each block gets."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn as nn
from torch import Tensor

from blocklocal._common.errors import InputError
from blocklocal._common.message import Forward, Given, Input, Message, hidden_of, lead, mask_after, mask_of
from blocklocal._common.seeds import seeded
from blocklocal.block.auxiliary import Reconstructor, embedding_of
from blocklocal.block.axes import followed
from blocklocal.block.learner import BlockLearner
from blocklocal.block.loss import HiddenLoss, OutputLoss, OwnLoss
from blocklocal.block.normalisation import normaliser
from blocklocal.block.objectives import OBJECTIVES, Terms
from blocklocal.block.readouts import reading_layer, readout
from blocklocal.block.shapes import Seen, check_batch_first, is_map, output_shapes, outputs, to_positions, units_of
from blocklocal.block.shared import SharedTwin, TableSource, table_of
from blocklocal.block.targets import Targets, target_rows
from blocklocal.block.twin import TWINS, Twin, TwinShapes
from blocklocal.families import Family
from blocklocal.network.settings import Learning
from blocklocal.rules import RULES, Rule
from blocklocal.splitting import Split


def build_learners(
    split: Split, example: Input, targets: Targets, learning: Learning, seed: int, own: OwnLoss | None = None
) -> list[BlockLearner]:
    """One learner per block, or one for all where the rule is end to end.

    Args:
        example: a batch [B, …], which gives shapes and device.
        seed: of the weights of twins, readouts and decoders.
        own: the user's loss of the last block, whose output may then be anything; the learners know by their `targets`.
    """
    rule = RULES.get(learning.rule)
    modules = [Whole(*split.blocks)] if rule.whole and len(split.blocks) > 1 else list(split.blocks)
    with seeded("lazy layers", seed), followed(modules, example) as axes:  # they draw when they first see a shape
        made = outputs(modules, example)
    shapes, device = [lead(example).shape, *(hidden_of(a).shape for a in made)], lead(example).device
    idle = {id(p) for p in split.check(example)}
    check_batch_first(shapes)
    if own is None:
        _check_output(shapes[-1], axes[-1], targets)
    elif targets.misfit(shapes[-1]) is not None:
        targets = replace(targets, hidden=True)
    seen = Seen(shapes, axes, getattr(split.model, "unit_axis", None))
    if rule.own_losses:
        _check_parts(learning, example, made, seen)
    with seeded("local losses", seed), torch.device(device):
        hidden = _Assembly(
            modules, made, seen, split.after_activation, targets, learning, rule, lead(example).is_floating_point()
        ).losses()
        around = [rule.forward_context(module) if rule.forward_context else None for module in modules]
    for module, each in zip(modules, around, strict=True):
        if each is not None:
            each.check(module, example)
    shared = any(each is not None and isinstance(each.twin, SharedTwin) for each in hidden)
    source = TableSource(table_of(modules[-1], targets.rows)) if shared else None
    losses = [*hidden, OutputLoss(targets, learning.label_smoothing, own, source, learning.consistency)]
    learners = [
        BlockLearner(module, losses[k], index=k, trains=rule.trains(k, len(modules)), forward_context=around[k])
        for k, module in enumerate(modules)
    ]
    for learner in learners:
        learner.idle = any(id(p) in idle for p in learner.block.parameters())
    _delay_messages(learners, start_rows(learners, targets, device), learning.message_delay)
    return learners


def start_rows(learners: Sequence[BlockLearner], targets: Targets, device: torch.device) -> Tensor:
    """What twins start from: the one-hot target rows [R, R], or rows without a value, [R, 0], where none reads them."""
    read = any(learner.twin is not None and learner.twin.reads_rows for learner in learners)
    return target_rows(targets, device) if read else torch.empty(targets.rows, 0, device=device)


class Whole(nn.Sequential):
    """Blocks in order as one; a mask that reaches the last of them stays with the output."""

    def forward(self, input: Given) -> Forward:
        before, a = input, self[0](input)
        for block in list(self)[1:]:
            before, a = a, block(a)
        mask = mask_after(before, a)
        return a if mask is None or isinstance(a, Message) else Message(a, {}, mask)


@torch.no_grad()
def _delay_messages(learners: Sequence[BlockLearner], rows: Tensor, steps: int) -> None:
    """Give chained twins their delay; until the first late message is there, those of the initial weights count."""
    incoming = rows
    for learner in reversed(learners):
        if learner.twin is not None:
            _, incoming = learner.message(incoming)
            learner.twin.delay(steps, incoming)


@dataclass(frozen=True)
class _Assembly:
    """The local losses of all blocks but the last.

    after_activation: whether a block's output has passed an activation; its zeros sit on the rectified family's kink,
    where only the second-order evidence is defined (method §1).
    """

    modules: Sequence[nn.Module]
    made: Sequence[Forward]
    seen: Seen
    after_activation: Sequence[bool]
    targets: Targets
    learning: Learning
    rule: Rule
    floating: bool = True  # whether the network reads numbers; else tokens

    def losses(self) -> list[HiddenLoss | None]:
        hidden = range(len(self.modules) - 1)
        if self.rule.objective is None and self.rule.twin is None:
            return [None for _ in hidden]
        readouts = [self._readout(k) for k in hidden]
        latents = [
            self._shape(k) if h is None else output_shapes([h], torch.zeros(self._shape(k)))[0]
            for k, h in enumerate(readouts)
        ]
        twins = self._twins(latents)
        return [self._loss(k, readouts[k], latents[k], twins[k]) for k in hidden]

    def _shape(self, k: int) -> torch.Size:
        """The shape of the output of block k (from 0), as local losses see it."""
        return self.seen.shape(k + 1)

    def _readout(self, k: int) -> nn.Module | None:
        layers, shape = self.learning.readout if self.rule.parts else 0, self._shape(k)
        if not layers or not self._matches:
            return None
        layers_read = len(shape) == 3 and mask_of(self.made[k]) is None  # a copy of one would read padding
        reader = reading_layer(self.modules[k + 1], self.made[k]) if layers_read else None
        return readout(shape, layers, reader, self.seen.layout(k + 1).line, keep=self._pixels)

    @property
    def _matches(self) -> bool:
        """Whether the hidden blocks' objective matches messages."""
        name = self.rule.objective_of(self.learning.objective)
        return name in (None, "greedy") or OBJECTIVES.get(name).matches

    @property
    def _pixels(self) -> bool:
        return len(self._answer) > 3

    @property
    def _answer(self) -> torch.Size:
        return self.targets.prediction_shape(self.seen.shapes[-1])

    def _twins(self, latents: Sequence[torch.Size]) -> Sequence[Twin | None]:
        kind = self.rule.twin_of(self.learning.twin)
        if kind is None or not self._matches:
            return [None for _ in latents]
        activations = [self._shape(k) for k in range(len(latents))]
        layouts = [self.seen.layout(k + 1) for k in range(len(latents))]
        twins = TWINS.get(kind)(TwinShapes(self.targets.rows, latents, activations, self.modules, layouts))
        for twin in twins:
            twin.requires_grad_(not self.rule.fixed_twin)
        return twins

    def _loss(self, k: int, h: nn.Module | None, latent: torch.Size, twin: Twin | None) -> HiddenLoss:
        learning, name = self.learning, self.rule.objective_of(self.learning.objective)
        greedy = name == "greedy"
        family = learning.latent_family()
        _check_family(family, latent)
        decoders, weights = self._parts(k) if self.rule.parts else ({}, {})
        if learning.negatives < 1 and not (self.targets.large and self._order(k, h) == "first"):
            raise InputError(
                f"negatives={learning.negatives:g} draws some of the many tokens of a text, with the evidence to first "
                "order: leave it out where the data are no text, or order is another one."
            )
        shared = isinstance(twin, SharedTwin)  # its table makes logits of order one by itself
        return HiddenLoss(
            family=family,
            objective=None if name is None or greedy else OBJECTIVES.get(name),
            targets=self.targets,
            twin=twin,
            classifier=nn.Linear(units_of(latent), self.targets.rows) if greedy else None,
            readout=h,
            decoders=decoders,
            weights=weights,
            terms=Terms(
                order=self._order(k, h),
                temperature=learning.temperature,
                smoothing=learning.label_smoothing,
                per_position=len(self._answer) > 2,
                pixels=self._pixels,
                negatives=learning.negatives,
            ),
            message_scale=1.0 if shared or is_map(latent) else units_of(latent) ** -0.5,
            normaliser=normaliser(learning.normalise, self._shape(k)) if self.rule.parts else None,
            layouts={"output": self.seen.layout(k + 1), "image": self.seen.layout(0), "input": self.seen.layout(k)},
            prior=shared,
            gain=shared,
        )

    def _order(self, k: int, h: nn.Module | None) -> str:
        kink = h is None and self.after_activation[k] and self.learning.family == "rectified"
        return "second" if kink and self.learning.order == "exact" else self.learning.order

    def _parts(self, k: int) -> tuple[dict[str, Reconstructor], dict[str, float]]:
        learning, weights, decoders = self.learning, {}, {}
        if learning.similarity:
            weights["similarity"] = learning.similarity
        weights |= {name: weight for name in ("consistency", "barlow") if (weight := getattr(learning, name))}
        if learning.reconstruction:
            source = 0 if learning.reconstruct == "image" else k
            weights[learning.reconstruct] = learning.reconstruction
            decoders[learning.reconstruct] = self._decoder(k, source)
        return decoders, weights

    def _decoder(self, k: int, source: int) -> Reconstructor:
        """A decoder from the output of block k to the output of the block `source` (from 1; 0: the image)."""
        wanted, line = self.seen.shape(source), self.seen.layout(k + 1).line
        if source == 0 and not self.floating:
            wanted = torch.Size((*wanted, _width_of_tokens(self.modules[0], k, self.learning)))
        if line != self.seen.layout(source).line:
            wanted = torch.Size((wanted[0], wanted[1:].numel()))
        return Reconstructor(self._shape(k), wanted, line=line)


def _width_of_tokens(block: nn.Module, k: int, learning: Learning) -> int:
    """Units of a token, where tokens are what is to be reconstructed: by the first block alone, which embeds them.

    Raises:
        InputError: another block is to do it, or the first one embeds nothing.
    """
    table = embedding_of(block)
    if k == 0 and learning.reconstruct == "input" and table is not None:
        return table.embedding_dim
    raise InputError(
        "reconstruction predicts numbers, and the network reads tokens: give reconstruct='input' and a first block "
        "that begins with an nn.Embedding, whose output is predicted then."
    )


def _check_parts(learning: Learning, example: Input, made: Sequence[Forward], seen: Seen) -> None:
    """Refuse local losses that messages and inputs of several tensors, or masks, do not allow."""
    if learning.objective == "none" and not (learning.reconstruction or learning.similarity or learning.barlow):
        raise InputError(
            "objective='none' leaves hidden blocks to their auxiliary losses, and none is on: give reconstruction=, "
            "similarity= or barlow= a weight."
        )
    if learning.objective == "none" and learning.consistency:
        raise InputError("consistency learns what a block answers, and under objective='none' it answers nothing.")
    if learning.reconstruction and not isinstance(example, Tensor):
        raise InputError(
            "reconstruction predicts an input of one tensor, and this network takes several: leave reconstruction out."
        )
    masked = [k for k, a in enumerate(made) if mask_of(a) is not None]
    if masked and learning.normalise == "batch":
        raise InputError(
            f"normalise='batch' would count padding: block {masked[0] + 1} gives a mask. Give normalise='units'."
        )
    if learning.twin == "mirrored" and any(isinstance(a, Message) for a in made):
        raise InputError(
            "the mirrored twin reverses blocks of one tensor, and a block here gives a Message: give twin='dense' or "
            "'chain'."
        )
    for k in masked[: None if len(masked) < len(made) else -1]:
        if seen.layout(k + 1).line:
            raise InputError(
                f"block {k + 1} gives a mask beside channels first, {list(seen.shapes[k + 1])}: masks are for "
                "sequences with the units last, [B, T, D]."
            )


def _check_output(shape: torch.Size, axis: int | None, targets: Targets) -> None:
    if len(shape) == 3 and axis == 1:
        raise InputError(
            f"the last block gives channels first, {list(shape)}; with one target per position it must give "
            "[B, T, classes]: end the model with a transpose(1, 2), or with pooling for one target per sample."
        )
    reason = targets.misfit(shape)
    if reason is not None:
        raise InputError(reason)


def _check_family(family: Family, latent: torch.Size) -> None:
    """A vector family must be able to group the units of the latent; it says itself what is wrong."""
    family.group(to_positions(torch.zeros(latent)))
