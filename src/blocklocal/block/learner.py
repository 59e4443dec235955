"""The block learner: one forward block with all it needs to learn by itself.

A learner turns an incoming forward message and a target into an outgoing forward message and a local update. It never
asks for anything from the learners behind it. Everything else is a walk over pairs (block, step) that calls it: step by
step in one process, or as a wavefront over several.

    message(incoming)            its backward message b_k, and what it passes on to the block before
    receive(a, target, …)        forward, and the local loss; the graph is alive in the returned `BlockPass`
    local_backward(pending)      gradients of its own loss
    outer_backward(pending, g)   gradients for a `g` that arrived at its output (neighbour scope, direct feedback)
    update()                     clip, optimiser step, schedule step; or, while it `holds`, gradients are added up
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
import torch.nn as nn
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from blocklocal._common.errors import InputError
from blocklocal._common.group_norm import guarded
from blocklocal._common.message import Forward, Given, Message, check_message, hidden_of, lead, map_message, mask_after
from blocklocal._common.seeds import seeded
from blocklocal.block.auxiliary import embedding_of
from blocklocal.block.average import averaged, follow
from blocklocal.block.groups import normed
from blocklocal.block.loss import HiddenLoss, LocalResult, OutputLoss
from blocklocal.block.normalisation import one_value
from blocklocal.block.optim import Optimizer
from blocklocal.block.scaling import LossScale
from blocklocal.block.schedules import Schedule, build_schedule
from blocklocal.block.step import BlockPass, ForwardContext, StepContext
from blocklocal.block.targets import Asked
from blocklocal.block.twin import Twin

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class BlockLearner(nn.Module):
    """Forward block, local loss (twin, readout, family, objective) and optimiser of block `index`.

    Args:
        trains: False for a frozen block: it runs forward in training mode (BatchNorm statistics follow the data) and
            never changes its parameters.
        forward_context: training runs in its `context(block)` (feedback alignment).
    """

    local: HiddenLoss | OutputLoss | None
    forward_context: ForwardContext | None
    autocast: torch.dtype | None = None
    optimizer: torch.optim.Optimizer | None = None
    schedule: LRScheduler | None = None
    schedule_steps: int = 0
    clip: float | None = None
    ema: float | None = None
    scale: LossScale | None = None  # of the loss, in float16
    idle = False  # whether a weight of the block gets no gradient, as under no_grad
    names: Mapping[str, str] = {}  # of parameters: here → in the user's model
    holds = False  # whether gradients are added up, and the update waits for a later step
    _gathered = 0  # steps whose gradients are added up so far
    _replica: nn.Module | None = None

    def __init__(
        self,
        block: nn.Module,
        local: HiddenLoss | OutputLoss | None,
        *,
        index: int,
        trains: bool = True,
        forward_context: ForwardContext | None = None,
    ):
        super().__init__()
        self.block, self.local = block, local
        self.index, self.trains = index, trains
        self.forward_context = forward_context

    # --- set-up

    def trainable(self) -> list[nn.Parameter]:
        return [p for _, p in self._trained()]

    def _trained(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, p) for name, p in self.named_parameters() if p.requires_grad] if self.trains else []

    def configure(self, optimizer: Optimizer, schedule: Schedule, steps: int) -> None:
        """Build this block's own optimiser and schedule; a frozen block, or one without parameters, gets none."""
        trained = self._trained()
        names = [self.names.get(name, name) for name, _ in trained]
        self.optimizer = None
        if trained:
            own = {id(p) for p in self.block.parameters()}
            self.optimizer = optimizer.build(
                [p for _, p in trained],
                names=names,
                normed=normed(self.block),
                own=None if isinstance(self.local, OutputLoss) else [id(p) in own for _, p in trained],
            )
        self.schedule = build_schedule(schedule, self.optimizer, steps) if self.optimizer else None
        self.schedule_steps = steps
        self.clip, self.ema = optimizer.clip, optimizer.ema
        self.scale = None
        self.cast(self.autocast)

    def cast(self, dtype: torch.dtype | None) -> None:
        """Compute in this precision; None: as the parameters are. In float16 the loss is scaled."""
        self.autocast = dtype
        device = next((p.device.type for p in self.trainable()), "meta")
        wanted = dtype == torch.float16 and self.optimizer is not None and device != "meta"
        if wanted and self.scale is None:
            assert self.optimizer is not None
            self.scale = LossScale(self.optimizer, device)
        elif not wanted and self.scale is not None:
            self.scale.end()
            self.scale = None

    def begin_schedule(self, optimizer: Optimizer, schedule: Schedule) -> None:
        """Begin a schedule anew, at the learning rate it starts with; the optimiser keeps its momenta."""
        if self.optimizer is None:
            return
        kept = {name: value for name, value in self.optimizer.state_dict().items() if name != "param_groups"}
        self.configure(optimizer, schedule, self.schedule_steps)
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), **kept})

    def replicate(self, group: "ProcessGroup") -> None:
        """Average the gradients over the processes of a group, each of which has its own part of every batch."""
        from torch.nn.parallel import DistributedDataParallel

        if self.trainable():
            replica = DistributedDataParallel(_Learn(self), process_group=group, find_unused_parameters=self.idle)
            self.__dict__["_replica"] = replica  # not a submodule

    # --- messages

    def forward(self, a: Given) -> Forward:
        """The forward message a_k = f_k(a_{k-1}), or f_1(x) of the network's input."""
        with self._precision(a), guarded(lead(a).device):
            return self.block(a)

    def scores(self, a: Forward, message: Tensor | None, mask: Tensor | None = None) -> Tensor | None:
        """The block's own logits from its output a, [B, R]; None where it cannot predict.

        Args:
            a: its output [B, …].
            message: its backward message.
            mask: the positions of the output that are real, [B, T] (`mask_after`); None where all are.
        """
        if self.local is None or not self.local.predicts:
            return None
        with self._precision(a):
            return self.local.scores(hidden_of(a), message, mask)

    @property
    def twin(self) -> Twin | None:
        """The block's own backward network; of the output block, whose posterior is the target, what it sends back."""
        return None if self.local is None else self.local.twin

    @property
    def late(self) -> Tensor | None:
        """Messages of a chained twin that are under way to the block before, [delay, R, …]; None without a delay."""
        return None if self.twin is None else self.twin.late

    def message(self, incoming: Tensor, *, learning: bool = False) -> tuple[Tensor | None, Tensor]:
        """The block's backward message, and what reaches the block before.

        Args:
            incoming: the target rows [R, R] (or [R, 0], where no twin reads them), or what came from the block behind.
            learning: in a training step in which messages go from block to block, so that a twin's late ones move on.

        Returns:
            b_k [R, P, U, …] with the twin's graph, or None without a twin; and the outgoing message.
        """
        twin = self.twin
        if twin is None:
            return None, incoming
        incoming = twin.source(self.block, incoming)
        if learning:
            twin.learn_from(incoming)
        with guarded(incoming.device):
            raw, outgoing = twin(incoming)
        message = self.local.message(raw) if isinstance(self.local, HiddenLoss) else None
        return message, twin.post(outgoing) if learning else twin.arriving(outgoing)

    def due(self, step: int) -> bool:
        """Whether target messages go from block to block in this training step."""
        return self.twin is None or self.twin.due(step)

    # --- one step

    def receive(
        self,
        a: Given,
        target: Asked,
        message: Tensor | None,
        *,
        context: StepContext,
        image: Given | None = None,
        reach_back: bool = False,
        cut: bool = True,
    ) -> BlockPass:
        """Run forward on a, cut from its graph, and take the local loss.

        Args:
            a: the incoming forward message [B, …], or the network's input.
            message: the backward message [R, P, U, …].
            image: the batch [B, …], for a block that reconstructs it.
            reach_back: the input (of a message: the hidden tensor) collects a gradient.
            cut: False where the graph of what comes in goes on.

        Raises:
            InputError: a BatchNorm gets one value per channel, because the batch has one sample.
        """
        source = map_message(Tensor.detach, a) if cut else a
        if reach_back:
            lead(source).requires_grad_()
        with (
            torch.set_grad_enabled(self.trains),
            seeded("block", context.seed, self.index, context.step),
            self._context(),
        ):
            wanted = {"input": self._numbers(lead(source))}
            if image is not None:
                wanted["image"] = lead(image)
            learn = self.learn if self._replica is None else self._replica
            try:
                output, result = learn(source, target, message, wanted, context.mix)
            except ValueError as error:
                if "more than 1 value per channel" not in str(error):
                    raise
                raise InputError(one_value(f"block {self.index + 1}")) from error
        return BlockPass(output, source, result)

    def _numbers(self, source: Tensor) -> Tensor:
        """What the block has read, as data; tokens as they are embedded, where a reconstruction wants them."""
        table = None if source.is_floating_point() else embedding_of(self.block)
        if table is None or not isinstance(self.local, HiddenLoss) or "input" not in self.local.decoders:
            return source.detach()
        return table(source).detach()

    def learn(
        self, a: Given, target: Asked, message: Tensor | None, wanted: Mapping[str, Tensor], mix: float
    ) -> tuple[Forward, LocalResult | None]:
        """The output and the local loss (None without one), with their graph."""
        output = self(a)
        if self.local is None or not self.local.learns:
            return output, None
        hidden, mask = hidden_of(output), mask_after(a, output)
        if isinstance(output, Message):
            check_message(output, f"block {self.index + 1}")
        with self._precision(a), guarded(hidden.device):
            return output, self.local(hidden, target, message=message, wanted=wanted, mix=mix, mask=mask)

    def local_backward(self, pending: BlockPass, *, keep: bool = False) -> Tensor | None:
        """Gradients of the own loss into the own parameters.

        Args:
            keep: the graph stays for a later `outer_backward`.

        Returns:
            The gradient at the input (of a message: at its hidden tensor), where one was asked for.
        """
        if self.trains and pending.result is not None and pending.result.loss.requires_grad:  # else: the user froze all
            loss = pending.result.loss
            (loss if self.scale is None else self.scale.multiply(loss)).backward(retain_graph=keep)
        gradient = lead(pending.source).grad
        return gradient if self.scale is None or gradient is None else self.scale.divide(gradient)

    def outer_backward(self, pending: BlockPass, gradient: Tensor) -> None:
        """Gradients of ⟨gradient, output⟩ into the block's parameters, and nowhere further back."""
        inputs = [p for p in self.block.parameters() if p.requires_grad]
        if self.scale is not None:
            gradient = self.scale.multiply(gradient.float())
        hidden = hidden_of(pending.output)
        if self.trains and inputs and hidden.requires_grad:
            torch.autograd.backward(hidden, gradient.to(hidden.dtype), inputs=inputs)

    def update(self) -> None:
        """Clip, step the optimiser and the schedule, drop the gradients.

        While the learner `holds`, its gradients stay instead, and the next update takes their mean over the steps.
        Training may go on after the schedule's last step; the learning rate then stays where it ended.
        """
        if self.optimizer is None:
            return
        self._gathered += 1
        if self.holds:
            return
        if self._gathered > 1:
            torch._foreach_div_([p.grad for p in self.trainable() if p.grad is not None], float(self._gathered))
        self._gathered = 0
        if self._stepped(self.optimizer):
            if self.ema is not None:
                follow(self.optimizer, self.ema)
            if self.schedule is not None and self.schedule.last_epoch < self.schedule_steps:
                self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _stepped(self, optimizer: torch.optim.Optimizer) -> bool:
        """Whether the optimiser has stepped: in float16 not where gradients have become too large."""
        if self.scale is not None:
            return self.scale.step(self.trainable(), self.clip)
        if self.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.trainable(), self.clip)
        optimizer.step()
        return True

    def averaged(self) -> AbstractContextManager[None]:
        """Within it, the weights are their running means."""
        return averaged(self.optimizer)

    def forget(self) -> None:
        """Drop the gradients that wait for an update."""
        self._gathered = 0
        self.zero_grad(set_to_none=True)

    def _context(self) -> AbstractContextManager:
        return nullcontext() if self.forward_context is None else self.forward_context.context(self.block)

    def _precision(self, a: Given) -> AbstractContextManager:
        if self.autocast is None:
            return nullcontext()
        return torch.autocast(lead(a).device.type, dtype=self.autocast)


class _Learn(nn.Module):
    """`BlockLearner.learn` as the `forward` that DistributedDataParallel wraps."""

    def __init__(self, learner: BlockLearner):
        super().__init__()
        self.learner = learner

    def forward(self, *given: Any) -> tuple[Forward, LocalResult | None]:
        return self.learner.learn(*given)
