"""The share of a network's blocks that one process trains: the same units, whose neighbours' messages come over links.

Forward messages flow one way, stage by stage, and nobody waits for a later stage; only the late messages of a chained
twin come back, and those are due when the next stage has begun an earlier step (method §5).
"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, cast

import torch
import torch.nn as nn
from torch import Tensor

from blocklocal._common.errors import InputError
from blocklocal._common.seeds import stream_seed
from blocklocal.block import shards
from blocklocal.block.learner import BlockLearner, StepContext
from blocklocal.block.loss import HiddenLoss, LocalResult
from blocklocal.block.objectives import mixing
from blocklocal.block.optim import Optimizer, OptimizerFactory, Schedule, as_optimizer, as_schedule
from blocklocal.data import Batches
from blocklocal.network.edge import check_batch, check_finite, taking_gradients
from blocklocal.network.network import BlockLocal
from blocklocal.network.settings import Learning
from blocklocal.parallel.late import BackReceiver, BackSender
from blocklocal.parallel.links import END, STOP, Inbox, Outbox
from blocklocal.parallel.processes import Processes
from blocklocal.rules import Rule
from blocklocal.rules.base import Batch, local_step, pass_through, target_messages
from blocklocal.timeline.recorder import COMPUTE, MESSAGE, SEND, WAIT, Recorder

QUEUE = 2


class Stage(nn.Module):
    """The units of `network` that process `processes.stage` trains, in the place of the network in a `Trainer`.

    placement: number of blocks of every stage. queue: forward messages that may be under way to the next stage. shard:
    replicas share what they train (FSDP2), instead of a copy each; optimisers are built anew then (`configure`). Every
    process makes the whole network (from the same seed) and its stage; what it does not train goes with the network.

        with join(find_address()) as processes:
            stage = Stage(BlockLocal(split(model, blocks=4), classes=10), processes, placement=(2, 2))
            Trainer(stage, epochs=10).fit(train_loader)       # x is read by the first stage, y by all
            stage.finish()

    Raises InputError for a rule that needs later blocks, and for a placement that does not fit.
    """

    _rows: Tensor

    def __init__(
        self,
        network: BlockLocal,
        processes: Processes,
        placement: Sequence[int],
        *,
        queue: int = QUEUE,
        shard: bool = False,
        device: torch.device | str = "cpu",
        recorder: Recorder | None = None,
    ):
        super().__init__()
        if not network.units:
            raise InputError("a network must know its shapes before it is spread: give BlockLocal example=, a batch.")
        check_placement(placement, len(network.units), processes.stages)
        starts = [sum(placement[:s]) for s in range(processes.stages)]
        coming_back = passing_back(network.units, placement)
        check_rule(network.rule, network.learning, late=any(coming_back))
        self.processes, self.recorder = processes, recorder or Recorder()
        self.targets, self.learning = network.targets, network.learning
        self.count, self.epoch, self.steps, self.shares = len(network.units), 0, 0, processes.replicas
        # Replicas have random streams of their own: equal dropout masks on different images would be correlated noise.
        self._stream = stream_seed("replica", network.seed, processes.replica) if processes.replica else network.seed
        first = starts[processes.stage]
        mine = network.units[first : first + placement[processes.stage]]
        self._recipe: tuple[Optimizer, Schedule, int] = (network.optimizer, "constant", 1)
        self._units = nn.ModuleList(mine)
        self.register_buffer("_rows", network._rows.clone(), persistent=False)
        self.to(device)
        self._begun, self._mesh = False, processes.data if shard else None
        self._shards: list[Any] | None = None  # the modules that are shard_like, as FSDP2 gives them
        self._link(network.units, first, coming_back, queue)

    def _link(self, units: Sequence[BlockLearner], first: int, coming_back: Sequence[bool], queue: int) -> None:
        edges = self.processes.edge_groups(coming_back)
        here, delay = self.processes.stage, self.learning.message_delay
        self._inbox = self._outbox = self._back_in = self._back_out = None
        if not self.processes.first:
            edge = edges.pop(0)
            self._inbox = Inbox(self.processes, edge, queue, self.device, first)
            self._back_out = BackSender(self.processes, edge) if coming_back[here - 1] else None
        if not self.processes.last:
            edge = edges.pop(0)
            last = first + len(self.units)
            self._outbox = Outbox(self.processes, edge, queue, last, partial(self.recorder.span, SEND))
            if coming_back[here]:
                behind = units[last].twin
                assert behind is not None
                assert behind.late is not None
                like = torch.empty(behind.message_shape, dtype=behind.late.dtype, device=self.device)
                self._back_in = BackReceiver(self.processes, edge, like, delay)

    # --- what a Trainer asks of a network

    @property
    def units(self) -> list[BlockLearner]:
        """The block units of this process, neighbours of each other; they know their `index` in the network."""
        return cast(list[BlockLearner], list(self._units))

    @property
    def device(self) -> torch.device:
        return self._rows.device

    @property
    def optimizer(self) -> Optimizer:
        return self._recipe[0]

    @property
    def reads_images(self) -> bool:
        """Whether the x of a batch is read here: by the first block, or by hidden blocks that reconstruct the image."""
        losses = [unit.local for unit in self.units if isinstance(unit.local, HiddenLoss)]
        return self.processes.first or any("image" in local.decoders for local in losses)

    def materialize(self, example: Tensor) -> None:
        """Nothing: a stage is made of units that are there."""

    def configure(
        self, optimizer: Optimizer | OptimizerFactory, schedule: Schedule = "constant", steps: int = 1
    ) -> None:
        """Give every block its own optimiser and learning-rate schedule of `steps` steps."""
        recipe = (as_optimizer(optimizer), as_schedule(schedule), steps)
        if self._mesh is not None and self._shards is None:  # now, in the layout and on the device of training
            shards.check_average(self._mesh)
            self._shards = [module for unit in self.units for module in shards.shard(unit, self._mesh)]
        for unit in self.units:
            unit.configure(*recipe)
        self._recipe = recipe

    def autocast(self, dtype: torch.dtype | None) -> None:
        """Run blocks in this precision; None: as the parameters are."""
        for unit in self.units:
            unit.autocast = dtype

    def begin(self) -> None:
        """At the first step or evaluation, when weights, step and layout are those that training starts from."""
        if self._begun:
            return
        self._begun = True
        if self._mesh is not None and self._shards is None:
            self.configure(*self._recipe)
        elif self.processes.data is not None and self._mesh is None:
            for unit in self.units:
                unit.replicate(self.processes.data.get_group())
        late = self._late()
        if self._back_out is not None and late is not None:
            for message in late:
                self._back_out.send(message)

    @taking_gradients()
    def step(self, x: Tensor, y: Tensor) -> list[LocalResult | None]:
        """One training step of this process's blocks. x [B, …] is read by the first stage (and where blocks reconstruct
        the image), y [B, …] by all. Returns one detached result per unit."""
        x, y = check_batch(x, y, self.targets, self.device, first=self.steps == 0, reads=self.reads_images)
        self.begin()
        self.train()
        self._announce(len(y), training=True)
        span = self.recorder.span
        with span(MESSAGE) if self._back_in else nullcontext():
            incoming = self._rows if self._back_in is None else self._back_in.take()
        messages = target_messages(self.units, incoming, learning=True)
        late = self._late()
        if self._back_out is not None and late is not None:
            self._back_out.send(late[-1])
        with span(WAIT) if self._inbox else nullcontext():
            a = x if self._inbox is None else self._inbox.take()
        batch = Batch(x, y, self._rows, StepContext(self._stream, self.steps, mixing(self.learning.tau, self.epoch)))
        send = None if self._outbox is None else self._send
        results = pass_through(self.units, batch, a, messages, send=send, timed=partial(span, COMPUTE))
        self.steps += 1
        self.recorder.step(self.steps)
        return results

    @torch.no_grad()
    def block_logits(self, x: Tensor) -> list[Tensor | None]:
        """The own logits of this process's blocks for a batch, None where a block cannot predict."""
        self.begin()
        if self._inbox is None and not x.is_cuda:
            check_finite(x)
        self._announce(len(x), training=False)
        a = x if self._inbox is None else self._inbox.take()
        logits: list[Tensor | None] = []
        for unit, message in zip(self.units, self._messages(), strict=True):
            a = unit(a)
            logits.append(unit.scores(a, message))
            self._reshard()
        if self._outbox is not None:
            self._send(a)
        return logits

    def message_sizes(self) -> list[float | None]:
        """Mean |b| of the backward message of this process's blocks; None where there is none."""
        self.begin()
        with torch.no_grad():
            sizes = [None if b is None else b.abs().mean().item() for b in self._messages()]
        self._reshard()
        return sizes

    # --- what concerns the other processes

    def announced(self, batches: Batches, *, training: bool) -> "Announced":
        """The batches, told to the links epoch by epoch, so that messages are received ahead."""
        return Announced(self, batches, training)

    def expect(self, sizes: Sequence[int], *, training: bool) -> None:
        """The batch sizes of the next messages."""
        if self._inbox is not None:
            self._inbox.expect(sizes, training=training)
        if self._outbox is not None:
            self._outbox.expect(sizes, training=training)
        if training:
            self.recorder.begin()
        else:
            self.recorder.pause()

    def _announce(self, size: int, *, training: bool) -> None:
        """A batch that came without an announcement: its message is received when it is needed, not ahead."""
        if self._inbox is not None and not self._inbox.open:
            self._inbox.expect([size], training=training)
        if self._outbox is not None and not self._outbox.open:
            self._outbox.expect([size], training=training)

    def stopped(self) -> bool:
        """Whether the stage before has stopped; waits for its next message (or for its word that none follows)."""
        if self._inbox is None:
            return False
        with self.recorder.span(WAIT) if self._inbox.open else nullcontext():
            return self._inbox.peek().kind == STOP

    def losses(self, own: Sequence[float]) -> list[float]:
        """The latest known losses of all blocks up to here, given those of this process; they travel on from here."""
        before = [] if self._inbox is None else list(self._inbox.losses)
        if self._outbox is not None:
            self._outbox.losses = [*before, *own]
        return [*before, *own]

    def finish(self, *, stop: bool = False) -> None:
        """Hear that no message follows, and tell the next stage. stop: because the user has asked for it."""
        self.recorder.pause()
        if self._inbox is not None:
            self._inbox.peek()  # also where nothing was to be trained: the stage before waits until it is heard
        if self._outbox is not None:
            self._outbox.finish(STOP if stop else END)

    def _send(self, a: Tensor) -> None:
        """Pass a forward message on; what is the received one's memory (a block that only reshapes) is copied."""
        assert self._outbox is not None
        received = self._inbox is not None and self._inbox.holds(a)
        self._outbox.send(a.clone() if received else a)

    def _messages(self) -> list[Tensor | None]:
        return target_messages(self.units, self._rows if self._back_in is None else self._back_in.peek())

    def _reshard(self) -> None:
        """After a pass without a backward one: forget what was gathered, which the next update makes stale."""
        for module in self._shards or ():
            module.reshard()

    def _late(self) -> Tensor | None:
        twin = self.units[0].twin
        return None if twin is None else twin.late


class Announced:
    """`Batches` whose epochs a stage is told of before they begin."""

    def __init__(self, stage: Stage, batches: Batches, training: bool):
        self.stage, self.batches, self.training = stage, batches, training

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.stage.expect(self.batches.sizes(), training=self.training)
        return iter(self.batches)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        self.stage.expect(self.batches.sizes(start), training=self.training)
        return self.batches.epoch(epoch, start)


def check_placement(placement: Sequence[int], blocks: int, stages: int) -> None:
    """Raise InputError where the numbers of blocks per stage do not add up."""
    if stages > blocks:
        raise InputError(
            f"{stages} processes for {blocks} blocks: every process needs a block. Start at most {blocks}, or cut the "
            f"network into more blocks (--blocks {stages})."
        )
    if len(placement) != stages or any(count < 1 for count in placement) or sum(placement) != blocks:
        raise InputError(
            f"the placement {' '.join(map(str, placement))} does not put {blocks} blocks into {stages} processes: give "
            f"{stages} numbers of at least 1 that add up to {blocks}."
        )


def check_rule(rule: Rule, learning: Learning, *, late: bool) -> None:
    """Raise InputError, with the reason, for a rule whose blocks wait for later ones. late: a twin's messages do."""
    reason = ""
    if rule.whole:
        reason = "it trains all blocks as one, with a gradient from the last to the first"
    elif rule.step is not local_step:
        reason = "every block waits for the error of the output"
    elif learning.scope == "neighbour" and rule.objective is not None:
        raise InputError(
            "scope neighbour cannot run in several processes: a block waits for the gradient of the next one. Give "
            "--scope local, or one process."
        )
    if reason:
        raise InputError(f"the rule {rule.name} cannot run in several processes: {reason}. Give one process.")
    if late and learning.message_delay == 0:
        raise InputError(
            f"the twin {learning.twin} passes its messages from block to block, and between processes they are late: "
            "give --message-delay 1 (or 2, which hides the way), in one process too if the two are to agree."
        )


def passing_back(units: Sequence[BlockLearner], placement: Sequence[int]) -> list[bool]:
    """For every link between two stages, whether messages of a chained twin come back over it."""
    twins = [units[sum(placement[:stage])].twin for stage in range(1, len(placement))]
    return [twin is not None and twin.chained for twin in twins]
