"""K block units as one module: training steps, messages, and a prediction from every block."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, cast

import torch
import torch.nn as nn
from torch import Tensor
from torch.nn.parameter import is_lazy

from blocklocal._common.errors import InputError, unknown
from blocklocal.block.learner import BlockLearner, StepContext
from blocklocal.block.loss import LocalResult
from blocklocal.block.objectives import mixing
from blocklocal.block.optim import Optimizer, OptimizerFactory, Schedule, as_optimizer, as_schedule, sgd
from blocklocal.block.targets import Classes, Labels, Targets, check_shape, combined
from blocklocal.models.base import check_input, input_shape
from blocklocal.network.assembly import build_learners
from blocklocal.network.edge import check_batch, check_finite, check_tensor, explained, taking_gradients
from blocklocal.network.settings import Learning
from blocklocal.network.trial import Trials
from blocklocal.rules import RULES
from blocklocal.rules.base import Batch, StepFunction, local_step, neighbour_step, target_messages
from blocklocal.splitting import Split


@dataclass(frozen=True)
class Prediction:
    """What a network says of a batch.

    probabilities: [B, C] of the classes ([B, T, C] for sequences); for binary labels [B, L], of every "yes".
    label, confidence: [B] (or [B, T]), the most probable class and its probability; for binary labels [B, L], 0 or 1
    and the probability of that answer. blocks: the same from every block, None where a block cannot predict.
    combined: what all of them say together (their normalised geometric mean), None where only the output predicts.
    """

    probabilities: Tensor
    targets: Targets
    blocks: Sequence["Prediction | None"] = ()
    combined: "Prediction | None" = None

    @property
    def label(self) -> Tensor:
        return self.targets.label(self.probabilities)

    @property
    def confidence(self) -> Tensor:
        return self.targets.confidence(self.probabilities)


class BlockLocal(nn.Module):
    """A network cut into blocks that learn by themselves.

    blocks: a network cut by `split`. classes: number of classes; or labels: number of binary labels per sample. rule
    and every other setting of `Learning` are keyword arguments; `learning` gives them as one value. Twins and readouts
    need the shapes of the activations: they are made from `example` [B, …], from the model's own `input_shape`, or at
    the first batch.

        network = BlockLocal(split(model, blocks=4), classes=10)
        result = network.step(x, y)            # one local update of every block
        network.predict(x).confidence          # of the output; network.predict(x).blocks for every block
        plain = network.to_plain()             # the user's module again, trained

    Raises InputError for unknown settings, and for targets or shapes that do not fit.
    """

    _rows: Tensor  # one-hot target rows, where every twin starts

    def __init__(
        self,
        blocks: Split,
        *,
        classes: int | None = None,
        labels: int | None = None,
        learning: Learning | None = None,
        optimizer: Optimizer | OptimizerFactory | None = None,
        example: Tensor | None = None,
        seed: int = 0,
        **settings: Any,
    ):
        super().__init__()
        if (classes is None) == (labels is None):
            raise InputError("give either classes= (one of several) or labels= (several yes/no answers).")
        if not isinstance(blocks, Split):
            raise InputError(
                f"BlockLocal takes a network that is cut already, not {type(blocks).__name__}: "
                "give split(model, blocks=4), or split(model, at=[...])."
            )
        self.split = blocks
        self.targets = Classes(classes) if classes is not None else Labels(labels or 0)
        self.learning = _learning(learning, settings)
        self.rule = RULES.get(self.learning.rule)
        self.seed, self.epoch, self.steps = seed, 0, 0
        self._units = nn.ModuleList()
        self._recipe: tuple[Optimizer, Schedule, int] = (as_optimizer(optimizer or sgd()), "constant", 1)
        self._autocast: torch.dtype | None = None
        self._trials = Trials()
        shape = input_shape(self.split.model)
        if example is None and shape is not None:
            example = torch.zeros(2, *shape, device=next((p.device for p in self.split.model.parameters()), None))
        if example is not None:
            self.materialize(example)
        else:
            self._waiting = nn.ModuleList(self.split.blocks)  # so that .to(device) reaches them before the first batch

    @property
    def units(self) -> list[BlockLearner]:
        """The block units, first to last; empty before shapes are known."""
        return cast(list[BlockLearner], list(self._units))

    @property
    def count(self) -> int:
        """Number of units."""
        return len(self.units)

    @property
    def shares(self) -> int:
        """Parts of a batch that are trained on at the same time: one."""
        return 1

    # --- set-up

    @taking_gradients()
    def materialize(self, example: Tensor) -> None:
        """Check one batch [B, …] and make twins, readouts and optimisers from its shapes; made once."""
        check_input(self.split.model, example)
        if self.units:
            return
        check_tensor("x", example, self.device)
        weights = [p for block in self.split.blocks for p in block.parameters() if not is_lazy(p)]
        if any(p.is_inference() for p in weights):
            raise InputError(
                "the model was built under torch.inference_mode(), so it cannot be trained: build it outside."
            )
        example = example.detach()[:2].clone()
        with explained(self.split.blocks, example):
            units = build_learners(self.split, example, self.targets, self.learning, self.seed)
        self._units = nn.ModuleList(units).train(self.training)
        self._modules.pop("_waiting", None)
        self.register_buffer("_rows", torch.eye(self.targets.rows, device=example.device), persistent=False)
        self.configure(*self._recipe)
        self.autocast(self._autocast)
        self._trials.output(self.units, example.repeat_interleave(2, 0), self._rows)

    @property
    def device(self) -> torch.device:
        """Where its parameters are."""
        return next((p.device for block in self.split.blocks for p in block.parameters()), torch.device("cpu"))

    @property
    def optimizer(self) -> Optimizer:
        """Which optimiser every block has."""
        return self._recipe[0]

    def configure(
        self, optimizer: Optimizer | OptimizerFactory, schedule: Schedule = "constant", steps: int = 1
    ) -> None:
        """Give every block its own optimiser and learning-rate schedule of `steps` steps."""
        recipe = (as_optimizer(optimizer), as_schedule(schedule), steps)
        for unit in self.units:
            unit.configure(*recipe)
        self._recipe = recipe

    def autocast(self, dtype: torch.dtype | None) -> None:
        """Run blocks in this precision (for example torch.bfloat16); None: as the parameters are."""
        self._autocast = dtype
        for unit in self.units:
            unit.autocast = dtype

    # --- learning

    @taking_gradients()
    def step(self, x: Tensor, y: Tensor) -> list[LocalResult | None]:
        """One training step: every block takes its local loss and updates itself. x [B, …], y [B] (or [B, T], [B, L]).

        Returns one result per unit (None for a block without a loss of its own), detached. It takes its own gradients
        under the caller's `torch.no_grad()` and `torch.inference_mode()` too. Raises InputError, and changes nothing,
        for a batch that cannot be right (`edge.check_batch` says what is looked at when) or on which a block does not
        run.
        """
        check_tensor("x", x, self.device)
        check_input(self.split.model, x)  # before the targets are: of a sample without its batch, this says more
        x, y = check_batch(x, y, self.targets, self.device, first=self.steps == 0)
        self.materialize(x)
        self.train()
        output = self._trials.output(self.units, x, self._rows)
        check_shape(y, torch.Size((len(x), *self.targets.shape(output))))
        m, before = mixing(self.learning.tau, self.epoch), self.steps
        batch = Batch(x, y, self._rows, StepContext(self.seed, self.steps, m))
        try:
            results = self._step_function()(self.units, batch)
            self.steps += 1
        finally:
            if self.steps == before:  # what failed in between must not leave gradients for the next step
                self.zero_grad(set_to_none=True)
        return results

    def _step_function(self) -> StepFunction:
        reaches = self.rule.step is local_step and self.rule.local and self.rule.objective is not None
        return neighbour_step if self.learning.scope == "neighbour" and reaches else self.rule.step

    # --- prediction

    def forward(self, x: Tensor) -> Tensor:
        """The output block's logits, with the ordinary graph of PyTorch."""
        self.materialize(x)
        for unit in self.units:
            x = unit(x)
        return x

    def block_logits(self, x: Tensor) -> list[Tensor | None]:
        """Every block's own logits for a batch, None where a block cannot predict. Modes are left as they are.

        Raises InputError for x that is not finite; on CUDA, where that makes the host wait for the device, only
        `predict` looks.
        """
        check_tensor("x", x, self.device)
        if not x.is_cuda:
            check_finite(x)
        return self._logits(x)

    @torch.no_grad()
    def _logits(self, x: Tensor) -> list[Tensor | None]:
        """`block_logits` of a batch whose values were looked at before."""
        self.materialize(x)
        self._trials.output(self.units, x, self._rows, training=self.training)
        logits: list[Tensor | None] = []
        with explained(self.split.blocks, x):
            a = x
            for unit, message in zip(self.units, target_messages(self.units, self._rows), strict=True):
                a = unit(a)
                logits.append(unit.scores(a, message))
        return logits

    def predict(self, x: Tensor) -> Prediction:
        """Probabilities, label and confidence of the output, of every block and of all together, in evaluation mode."""
        check_tensor("x", x, self.device)
        check_finite(x)
        mode = self.training
        try:
            self.eval()
            logits = self._logits(x)
        finally:
            self.train(mode)
        *blocks, together = [
            None if scores is None else Prediction(self.targets.probabilities(scores), self.targets)
            for scores in (*logits, combined(self.targets, logits))
        ]
        assert blocks[-1] is not None
        return replace(blocks[-1], blocks=tuple(blocks), combined=together)

    # --- the rest

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As of any module; twins and readouts must be there, so the shapes must be known.

        Raises InputError where one of the two networks, the saved one and this one, knows its shapes and the other
        does not.
        """
        waiting = any(name.startswith("_waiting.") for name in state_dict)
        if waiting == bool(self.units) and state_dict:
            which = "these weights are" if waiting else "this network is"
            raise InputError(
                f"{which} of a network that does not know its shapes yet, so twins and readouts are not made: give "
                "BlockLocal example=, a batch [B, …], or run one batch before."
            )
        return super().load_state_dict(state_dict, strict=strict, assign=assign)

    def to_plain(self) -> nn.Module:
        """The user's module again, trained, with its own state_dict names; twins and readouts stay behind."""
        return self.split.to_plain()

    def message_sizes(self) -> list[float | None]:
        """Mean |b| of every block's backward message; None where there is none. Empty before shapes are known."""
        if not self.units:
            return []
        with torch.no_grad():
            messages = target_messages(self.units, self._rows)
        return [None if b is None else b.abs().mean().item() for b in messages]


def _learning(learning: Learning | None, settings: Mapping[str, Any]) -> Learning:
    known = {field.name for field in fields(Learning)}
    for name in settings:
        if name not in known:
            raise unknown("setting", name, known)
    return replace(learning or Learning(), **settings)
