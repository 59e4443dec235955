"""The share of a network's blocks that one process trains: the same learners, with links at their two edges.

Forward messages flow one way, stage by stage, and nobody waits for a later stage; only the late messages of a chained
twin come back, and those are due when the next stage has begun an earlier step (method §5).
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn as nn

from blocklocal._common.errors import InputError
from blocklocal._common.message import Input
from blocklocal._common.seeds import stream_seed
from blocklocal.block import shards
from blocklocal.block.factories import OptimizerFactory
from blocklocal.block.learner import BlockLearner
from blocklocal.block.optim import Optimizer
from blocklocal.block.schedules import Schedule
from blocklocal.network.network import BlockLocal
from blocklocal.network.settings import Learning
from blocklocal.parallel.link_edges import LinkEdges
from blocklocal.parallel.linked import Linked
from blocklocal.parallel.processes import Processes
from blocklocal.rules import Rule
from blocklocal.timeline.recorder import Recorder

MAX_IN_FLIGHT = 2


class Stage(Linked):
    """The learners of `network` that process `processes.stage` trains, in the place of the network in a `Trainer`.

    Every process makes the whole network (from the same seed) and its stage; what it does not train goes with the
    network.

        with join(find_address()) as processes:
            stage = Stage(BlockLocal(split(model, blocks=4), classes=10), processes, placement=(2, 2))
            Trainer(stage, epochs=10).fit(train_loader)       # x is read by the first stage, y by all
            stage.finish()

    Args:
        network: the whole network, whose shapes are known. Every batch has targets as its example asks for them.
        processes: this process among the others.
        placement: number of blocks of every stage.
        max_in_flight: forward messages that may be under way to the next stage.
        shard: replicas share what they train (FSDP2), instead of a copy each; optimisers are built anew then
            (`configure`).
        device: where this stage trains.
        recorder: is told when the stage computes, waits and sends.

    Raises:
        InputError: for a rule that needs later blocks, and for a placement that does not fit.
    """

    def __init__(
        self,
        network: BlockLocal,
        processes: Processes,
        placement: Sequence[int],
        *,
        max_in_flight: int = MAX_IN_FLIGHT,
        shard: bool = False,
        device: torch.device | str = "cpu",
        recorder: Recorder | None = None,
    ):
        if not network.learners:
            raise InputError("a network must know its shapes before it is spread: give BlockLocal example=, a batch.")
        check_placement(placement, len(network.learners), processes.stages)
        coming_back = passing_back(network.learners, placement)
        check_rule(network.rule, network.learning, late=any(coming_back))
        # Replicas have random streams of their own: equal dropout masks on different images would be correlated noise.
        stream = stream_seed("replica", network.seed, processes.replica) if processes.replica else network.seed
        super().__init__(network.targets, network.learning, network.optimizer, stream, processes.replicas)
        first = sum(placement[: processes.stage])
        share = range(first, first + placement[processes.stage])
        self.processes, self.recorder, self._count = processes, recorder or Recorder(), len(network.learners)
        self._learners = nn.ModuleList(network.learners[share.start : share.stop])
        self._target_shape = network.target_shape
        self.register_buffer("rows", network.rows.clone(), persistent=False)
        self.to(device)
        self._begun, self._mesh = False, processes.data if shard else None
        self._shards: list[Any] | None = None  # the modules that are divided, as FSDP2 gives them
        self.edges = LinkEdges(
            processes,
            network.learners,
            share,
            coming_back,
            depth=max_in_flight,
            device=self.device,
            recorder=self.recorder,
        )

    @property
    def count(self) -> int:
        return self._count

    @property
    def device(self) -> torch.device:
        return self.rows.device

    def materialize(self, example: Input) -> None:
        """Nothing: a stage is made of learners that are there."""

    def configure(
        self, optimizer: Optimizer | OptimizerFactory, schedule: Schedule = "constant", steps: int = 1
    ) -> None:
        """Give every block its own optimiser and learning-rate schedule of `steps` steps.

        Raises:
            InputError: for a running mean of weights that are sharded, or float16.
        """
        if self._mesh is not None and isinstance(optimizer, Optimizer) and optimizer.ema is not None:
            raise InputError("sharded weights have no running mean: leave out --shard, or --ema.")
        if self._mesh is not None and self._autocast == torch.float16:
            raise InputError("sharded weights have no loss scale for float16: leave out --shard, or take bfloat16.")
        if self._mesh is not None and self._shards is None:  # now, in the layout and on the device of training
            shards.check_average(self._mesh)
            self._shards = [module for learner in self.learners for module in shards.shard(learner, self._mesh)]
        super().configure(optimizer, schedule, steps)

    def begin(self) -> None:
        """At the first step or evaluation, when weights, step and layout are those that training starts from."""
        if self._begun:
            return
        self._begun = True
        if self._mesh is not None and self._shards is None:
            self.configure(*self._optimisation)
        elif self.processes.data is not None and self._mesh is None:
            for learner in self.learners:
                learner.replicate(self.processes.data.get_group())
        self.edges.begin(self.learners[0].late)

    def looked(self) -> None:
        """Forget what was gathered, which the next update makes stale."""
        for module in self._shards or ():
            module.reshard()


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
    """Raise InputError, with the reason, for a rule whose blocks wait for later ones.

    Args:
        late: messages of a chained twin come late.
    """
    reason = rule.waits_because(learning.scope)
    if reason is not None and rule.waits_because("local") is None:
        raise InputError(
            f"scope {learning.scope} cannot run in several processes: {reason}. Give --scope local, or one process."
        )
    if reason is not None:
        raise InputError(f"the rule {rule.name} cannot run in several processes: {reason}. Give one process.")
    if late and learning.message_delay == 0:
        raise InputError(
            f"the twin {learning.twin} passes its messages from block to block, and between processes they are late: "
            "give --message-delay 1 (or 2, which hides the way), in one process too if the two are to agree."
        )


def passing_back(learners: Sequence[BlockLearner], placement: Sequence[int]) -> list[bool]:
    """For every link between two stages, whether messages of a chained twin come back over it."""
    twins = [learners[sum(placement[:stage])].twin for stage in range(1, len(placement))]
    return [twin is not None and twin.chained for twin in twins]
