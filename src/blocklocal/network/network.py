"""A whole network of block learners as one module: training steps, and a prediction from every block."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, overload

import torch
import torch.nn as nn
from torch import Tensor
from torch.nn.parameter import is_lazy
from typing_extensions import Unpack

from blocklocal._common.errors import InputError, shown
from blocklocal._common.example import on_meta, twice, two_samples
from blocklocal._common.message import Input, hidden_of, lead
from blocklocal._common.modes import kept_modes
from blocklocal._common.ranges import SEED, check_range
from blocklocal.block.edges import OPEN
from blocklocal.block.factories import OptimizerFactory
from blocklocal.block.groups import normed
from blocklocal.block.loss import OwnLoss
from blocklocal.block.optim import Optimizer, adamw, as_optimizer, sgd
from blocklocal.block.shared import has_table
from blocklocal.block.targets import Asked, Tokens, Values
from blocklocal.models.base import check_input, input_shape
from blocklocal.network.asked import ClassWeights, asked_for, check_goes_with
from blocklocal.network.assembly import build_learners, start_rows
from blocklocal.network.compiling import compile_learners
from blocklocal.network.edge import check_batch, check_finite, check_x, explained, taking_gradients
from blocklocal.network.exits import EarlyPrediction, Exits, predict_early
from blocklocal.network.neighbours import Neighbours
from blocklocal.network.prediction import Prediction, Temperatures, predictions
from blocklocal.network.pretrained import HOW_TO_LOAD, model_card, write_pretrained
from blocklocal.network.settings import Learning, LearningSettings, learning_of
from blocklocal.network.trial import Trials
from blocklocal.splitting import Split


class BlockLocal(Neighbours):
    """A network cut into blocks that learn by themselves.

    Twins and readouts need the shapes of the activations: they are made from `example`, from the model's own
    `input_shape`, or at the first batch. A model in evaluation mode is put in training mode; a part of it that is in
    evaluation mode by itself (a pretrained BatchNorm) stays there.

        network = BlockLocal(split(model, blocks=4), classes=10)
        result = network.step(x, y)            # one local update of every block
        network.predict(x).confidence          # of the output; network.predict(x).blocks for every block
        plain = network.to_plain()             # the user's module again, trained

    Attributes:
        target_shape: of one sample's targets, as the output for the example asks for them; once shapes are known.

    Args:
        blocks: a network cut by `split`.
        classes: number of classes; or
        labels: number of binary labels per sample; or
        values: numbers per sample, which are standardised already; or `Values.of(y)` of the training part.
        tokens: size of a vocabulary, where the next token of a text is asked for; or `Tokens`, with the bytes of one.
        class_weights: how much every class counts in every loss; `balanced(y, classes)` makes them.
        output_loss: a loss of your own for the last block, a function (output, y) → one number; hidden blocks keep
            theirs.
        targets: a function that gives the targets of the hidden blocks, where a loader's y is something else.
        learning: rule and local losses as one value; `settings` change it.
        optimizer: of every block: `sgd()`, a class of `torch.optim`, or any function of a list of parameters. Default:
            `adamw()` for networks with a LayerNorm or an RMSNorm, `sgd()` for all others.
        example: a batch [B, …]: a tensor, or a tuple or dictionary of tensors, as the first block reads it.
        seed: names the random streams of initial weights and of dropout; a whole number from 0 to 2⁶³ - 1.
        settings: the fields of `Learning`, by name.

    Raises:
        InputError: for unknown settings, a seed out of its range, and targets or shapes that do not fit.
    """

    target_shape: torch.Size

    def __init__(
        self,
        blocks: Split,
        *,
        classes: int | None = None,
        labels: int | None = None,
        values: int | Values | None = None,
        tokens: int | Tokens | None = None,
        class_weights: ClassWeights = None,
        output_loss: OwnLoss | None = None,
        targets: Callable[[Any], Tensor] | None = None,
        learning: Learning | None = None,
        optimizer: Optimizer | OptimizerFactory | None = None,
        example: Input | None = None,
        seed: int = 0,
        **settings: Unpack[LearningSettings],
    ):
        if not isinstance(blocks, Split):
            raise InputError(
                f"BlockLocal takes a network that is cut already, not {type(blocks).__name__}: "
                "give split(model, blocks=4), or split(model, at=[...])."
            )
        check_range("seed", seed, SEED)
        chosen = learning_of(learning, settings)
        asked = asked_for(classes, labels, values, class_weights, targets, tokens)
        check_goes_with(asked, chosen)
        stream = any(map(normed, blocks.blocks))
        chosen = chosen.decided(
            stream=stream,
            tokens=isinstance(asked, Tokens),
            table=has_table(blocks.blocks[-1], asked.rows),
        )
        if output_loss is not None and not callable(output_loss):
            raise InputError(f"output_loss must be a function (output, y) → one number, not {shown(output_loss)}.")
        usual = adamw() if stream else sgd()
        super().__init__(asked, chosen, as_optimizer(usual if optimizer is None else optimizer), seed)
        self._own_loss = output_loss
        self.edges, self.split, self._trials = OPEN, blocks, Trials()
        if not blocks.model.training:  # as a whole: a part that is in evaluation mode by itself stays there
            for block in blocks.blocks:
                block.train()
        shape = input_shape(self.split.model)
        if example is None and shape is not None:
            example = torch.zeros(2, *shape, device=next((p.device for p in self.split.model.parameters()), None))
        if example is not None:
            shape_alone = self.device.type == "meta"
            self.materialize(on_meta(example) if shape_alone else example)
        else:
            self._waiting = nn.ModuleList(self.split.blocks)  # so that .to(device) reaches them before the first batch

    @property
    def seed(self) -> int:
        """What names the random streams of initial weights and of dropout."""
        return self.stream

    @property
    def count(self) -> int:
        """Number of learners; 0 before shapes are known."""
        return len(self.learners)

    @property
    def device(self) -> torch.device:
        """Where its parameters are."""
        return next((p.device for block in self.split.blocks for p in block.parameters()), torch.device("cpu"))

    @taking_gradients()
    def materialize(self, example: Input) -> None:
        """Check one batch [B, …] and make twins, readouts and optimisers from its shapes; made once.

        Raises:
            InputError: it is no batch for this network, or a block does not run on it.
        """
        check_input(self.split.model, example)
        if self.learners:
            return
        example = check_x(example, self.device)
        weights = [p for block in self.split.blocks for p in block.parameters() if not is_lazy(p)]
        if any(p.is_inference() for p in weights):
            raise InputError(
                "the model was built under torch.inference_mode(), so it cannot be trained: build it outside."
            )
        example = two_samples(example)
        with explained(self.split.blocks, example):
            learners = build_learners(self.split, example, self.targets, self.learning, self.seed, self._own_loss)
        own = {id(p): name for name, p in self.split.model.named_parameters()}
        for learner in learners:
            learner.names = {name: own[id(p)] for name, p in learner.named_parameters() if id(p) in own}
        assert learners[-1].local is not None
        self.targets = learners[-1].local.targets
        resting = [part for block in self.split.blocks for part in block.modules() if not part.training]
        self._learners = nn.ModuleList(learners).train(self.training)
        for part in resting:
            part.training = False
        self._modules.pop("_waiting", None)
        self.register_buffer("rows", start_rows(learners, self.targets, lead(example).device), persistent=False)
        self.configure(*self._optimisation)
        self.autocast(self._autocast)
        self.target_shape = self._target_shape(self.output_shape(twice(example)))

    def output_shape(self, x: Input, *, training: bool = True) -> torch.Size:
        """The shape of the network's output for one sample of a batch like x; a new kind of batch is tried first."""
        return self._trials.output(self.learners, x, self.rows, training=training)

    def _target_shape(self, output: torch.Size) -> torch.Size:
        """Of one sample, where the network gives this output for it."""
        return self.targets.shape(self.targets.prediction_shape(torch.Size((1, *output)))[1:])

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile what `step` and `predict` run of every block, by `torch.compile` with these arguments.

        Raises:
            InputError: before the shapes are known, and for a rule that changes how gradients are taken.
        """
        if not self.learners:
            raise InputError("a network must know its shapes before it is compiled: give BlockLocal example=, a batch.")
        compile_learners(self.learners, self.rule, *args, **kwargs)

    # --- what is asked of neighbours

    def check(self, x: Input, y: Asked) -> tuple[Input, Asked]:
        x = check_x(x, self.device)
        check_input(self.split.model, x)  # first: for a sample without a batch axis this message tells more
        return check_batch(x, y, self.targets, self.device, first=self.steps == 0)

    def prepare(self, x: Input, y: Asked) -> None:
        self.materialize(x)
        self.targets.fit(y, torch.Size((len(lead(x)), *self._target_shape(self.output_shape(x)))))

    def looking(self, x: Input) -> AbstractContextManager[None]:
        self.materialize(x)
        self.output_shape(x, training=self.training)
        return explained(self.split.blocks, x)

    # --- prediction

    def forward(self, x: Input) -> Tensor:
        """The output block's logits, with the ordinary graph of PyTorch."""
        self.materialize(x)
        a: Any = x
        for learner in self.learners:
            a = learner(a)
        return hidden_of(a)

    @overload
    def predict(self, x: Input, exit: None = None, *, temperatures: Temperatures | None = None) -> Prediction: ...

    @overload
    def predict(self, x: Input, exit: Exits) -> EarlyPrediction: ...

    def predict(self, x: Input, exit: Exits | None = None, *, temperatures: Temperatures | None = None) -> Prediction:
        """Probabilities, label and confidence of the output, of every block and of the ensemble, in evaluation mode.

        Every part of the network has its own mode again afterwards, also after an error.

        Args:
            x: the batch [B, …].
            exit: each sample takes the answer of the first block that is sure enough, and the blocks behind it do not
                run for it. The prediction is an `EarlyPrediction` then, which tells which block that was.
            temperatures: by which logits are divided, and the weights of all together; `exit` has its own.

        Raises:
            InputError: x cannot be right, or `exit` is not for this network or its targets.
        """
        x = check_x(x, self.device)
        check_finite(x)
        self.materialize(x)
        with kept_modes([self]):
            self.eval()
            if exit is not None:
                if not isinstance(exit, Exits):
                    raise InputError(f"exit= takes Exits, as choice.exits of fit_exits, not a {type(exit).__name__}.")
                return predict_early(self.learners, self.own_messages(), x, self.targets, exit)
            logits, _ = self._logits(x)
        return predictions(self.targets, logits, temperatures)

    # --- the rest

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As of any module; twins and readouts must be there, so the shapes must be known.

        Raises:
            InputError: one of the two networks, the saved one and this one, knows its shapes and the other does not.
        """
        waiting = any(name.startswith("_waiting.") for name in state_dict)
        if waiting == bool(self.learners) and state_dict:
            which = "these weights are of a network that" if waiting else "this network"
            raise InputError(
                f"{which} does not know its shapes yet, so twins and readouts are not made: give "
                "BlockLocal example=, a batch [B, …], or run one batch before."
            )
        return super().load_state_dict(state_dict, strict=strict, assign=assign)

    def save_pretrained(
        self, folder: Path | str, *, card: str | None = None, config: dict[str, Any] | None = None
    ) -> Path:
        """Write the user's module, trained, as a folder for others: model.safetensors, config.json, README.md.

        It loads without this library (`safetensors.torch.load_model`), and is ready for the Hugging Face hub
        (`HfApi().upload_folder`). A Hugging Face model writes weights and config itself, for its own `from_pretrained`.

        Args:
            folder: a new or empty one.
            card: the text of README.md; default: how the model was trained and how to load it.
            config: added to config.json.

        Returns:
            The folder.

        Raises:
            InputError: the folder holds other things, or the module's state holds what is no tensor.
            OSError: it cannot be written.
        """
        plain = self.to_plain()
        facts = {
            "model_type": type(plain).__name__,
            "trained_with": "blocklocal",
            "rule": self.rule.name,
            "blocks": len(self.split.blocks),
            "targets": self.targets.count,
        }
        how = f"A {facts['model_type']}, trained as {facts['blocks']} blocks under the rule {self.rule.name}."
        given = card if card is not None else model_card(facts["model_type"], [how, "", *HOW_TO_LOAD], [self.rule.name])
        return write_pretrained(plain, folder, {**facts, **(config or {})}, given)

    def to_plain(self) -> nn.Module:
        """The user's module again, trained, with its own state_dict names; twins and readouts stay behind."""
        return self.split.to_plain()
