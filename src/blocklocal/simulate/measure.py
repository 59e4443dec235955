"""What the blocks of a network cost on this machine, at its present number of threads."""

import time
from collections.abc import Callable, Sequence
from statistics import median

import torch
from torch import Tensor

from blocklocal._common.errors import InputError
from blocklocal._common.memory import saved_bytes
from blocklocal._common.message import Message
from blocklocal._common.ranges import check_range, whole
from blocklocal.block.learner import BlockLearner
from blocklocal.block.loss import OutputLoss
from blocklocal.block.step import StepContext
from blocklocal.network.network import BlockLocal
from blocklocal.rules.base import Batch, block_step, receive
from blocklocal.simulate.costs import MICRO_BATCHES, BlockCosts
from blocklocal.splitting.copying import copy_module
from blocklocal.splitting.costs import synchronize

REPEATS = whole(1, 10_000)
PASSES = ("forward", "backward_input", "backward_weight")


def measure(network: BlockLocal, x: Tensor, y: Tensor, *, micro_batches: int = 1, repeats: int = 7) -> list[BlockCosts]:
    """The costs of every block, for block-local learning and for backprop cut at the same places.

    Seconds are those of training mode. B + W is one backward pass; B a backward pass to the input alone, so W is what
    is left when it is apart from B and nothing is computed twice. The first block needs no gradient of its input. The
    last block's passes contain the cross-entropy. It works on a copy: the network stays as it was.

    Args:
        network: with a rule that gives every block a learner of its own, such as block-local.
        x, y: a training batch, [B, …] and its targets, on the device used in training.
        micro_batches: passes are measured on the whole batch and on one of so many parts of it; what does not shrink in
            proportion becomes the passes' overhead. Give the number that will be simulated (the largest of several).
        repeats: each time is the median of so many runs, after one that does not count.

    Raises:
        InputError: the rule trains all blocks as one, or there are more micro-batches than samples.
    """
    check_range("micro_batches", micro_batches, MICRO_BATCHES)
    check_range("repeats", repeats, REPEATS)
    if network.rule.whole or not network.rule.local:
        raise InputError(
            f"rule {network.rule.name!r} does not train blocks by themselves: build the network with rule='block-local'"
            " (the costs of backprop are measured from the same blocks)."
        )
    if micro_batches > len(x):
        raise InputError(f"{len(x)} samples cannot be cut into {micro_batches} micro-batches: give a larger batch.")
    trial = copy_module(network).train()
    trial.materialize(x)
    trial.configure(network.optimizer)
    part = len(x) // micro_batches
    with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []), torch.enable_grad():
        incoming = _incoming(trial, x.device)
        costs, a = [], x.detach()
        for learner, message in zip(trial.learners, incoming, strict=True):
            costs.append(_BlockMeasure(learner, trial, x, y, message, repeats).costs(a, part))
            with torch.no_grad():
                a = learner(a)
    return costs


def _incoming(network: BlockLocal, device: torch.device) -> list[Tensor]:
    """What each learner's twin starts from: the target rows, or what the twin of the block behind passes on."""
    found, incoming = [], network.rows
    for learner in reversed(network.learners):
        found.append(incoming)
        incoming = learner.message(incoming)[1].detach()
    return found[::-1]


class _BlockMeasure:
    """The costs of one learner. x, y: the network's batch; incoming: what the learner's twin starts from."""

    def __init__(
        self, learner: BlockLearner, network: BlockLocal, x: Tensor, y: Tensor, incoming: Tensor, repeats: int
    ):
        self.learner, self.y, self.incoming, self.repeats = learner, y, incoming, repeats
        self.batch = Batch(x, y, network.rows, StepContext())
        self.last = learner is network.learners[-1]
        self.parameters = [p for p in learner.block.parameters() if p.requires_grad]
        self.optimizer = network.optimizer.build(self.parameters) if self.parameters and learner.trains else None

    def costs(self, a: Tensor, part: int) -> BlockCosts:
        """a [B, …]: the block's input; part: samples of a micro-batch."""
        seconds = self._medians(a, part)
        whole, small = ([seconds[name, size] for name in ("F", "BW", "B")] for size in ("whole", "small"))
        update, after = seconds["update", "whole"], max(0.0, seconds["step", "whole"] - whole[0])
        own = min(seconds["own", "whole"], max(0.0, after - update))
        with torch.no_grad():
            output = self.learner(a)
        message_bytes = float(output.numel() * output.element_size())
        kept, kept_local = self._kept(a)
        return BlockCosts(
            *_passes(*whole),
            update=update,
            loss=max(0.0, after - own - update),
            local_backward=own,
            **_overheads(_passes(*whole), _passes(*small), part / len(a)),
            forward_bytes=message_bytes,
            backward_bytes=message_bytes,
            activation_bytes=kept,
            local_bytes=kept_local,
        )

    # --- seconds

    def _medians(self, a: Tensor, part: int) -> dict[tuple[str, str], float]:
        """Medians by what was done and on how much. Each round does everything, so that slow moments hit all alike."""
        actions: dict[tuple[str, str], Callable[[], float]] = {
            ("update", "whole"): lambda: self._update(a),
            ("own", "whole"): lambda: self._backward_own(a),
            ("step", "whole"): lambda: self._local_step(a),
        }
        for size, given in (("whole", a), ("small", a[:part])):
            actions["F", size] = lambda given=given: self._forward(given)[0]
            actions["BW", size] = lambda given=given: self._backward_both(given)
            actions["B", size] = lambda given=given: self._backward_input(given)
        rounds = [{name: action() for name, action in actions.items()} for _ in range(self.repeats + 1)]
        # The first round also allocates and chooses kernels.
        return {name: median(each[name] for each in rounds[1:]) for name in actions}

    def _forward(self, a: Tensor, wants_input: bool = True) -> tuple[float, Tensor, Tensor]:
        """(seconds, output or loss, the input as a leaf); the first block's input is data."""
        source = a.detach().requires_grad_(wants_input and self.learner.index > 0)
        given = source.clone()  # a block may work in place on what it gets, and may not do so on a leaf
        seconds, output = _timed(lambda: self._run(given, self.y[: len(a)]), a)
        return seconds, output, source

    def _run(self, a: Tensor, y: Tensor) -> Tensor:
        output = self.learner(a)
        if isinstance(output, Message):
            raise InputError(
                f"block {self.learner.index + 1} gives a Message of several tensors: what it costs is measured for "
                "blocks of one tensor alone. Cut elsewhere."
            )
        if not self.last:
            return output
        assert isinstance(self.learner.local, OutputLoss)
        return self.learner.local(output, y).loss

    def _backward(self, output: Tensor, inputs: Sequence[Tensor], a: Tensor) -> float:
        if not inputs:
            return 0.0
        gradient = torch.ones_like(output)
        return _timed(lambda: torch.autograd.backward(output, gradient, inputs=list(inputs)), a)[0]

    def _backward_both(self, a: Tensor) -> float:
        _, output, source = self._forward(a)
        return self._backward(output, [*self.parameters, *([source] if source.requires_grad else [])], a)

    def _backward_input(self, a: Tensor) -> float:
        _, output, source = self._forward(a)
        return self._backward(output, [source] if source.requires_grad else [], a)

    def _backward_own(self, a: Tensor) -> float:
        self.learner.zero_grad(set_to_none=True)  # a local step starts without gradients
        return self._backward(self._forward(a, wants_input=False)[1], self.parameters, a)

    def _update(self, a: Tensor) -> float:
        if self.optimizer is None:
            return 0.0
        self._backward_both(a)
        return _timed(self._optimise, a)[0]

    def _optimise(self) -> None:
        assert self.optimizer is not None
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _local_step(self, a: Tensor) -> float:
        """Seconds of a whole local step, its backward message included."""

        def step() -> None:
            block_step(self.learner, a, self.batch, self.learner.message(self.incoming)[0])

        return _timed(step, a)[0]

    # --- bytes

    def _kept(self, a: Tensor) -> tuple[float, float]:
        """Bytes that autograd keeps at the peak of a pass of backprop, and of a local step."""
        with saved_bytes(self.learner) as kept:
            output = self._forward(a)[1]
        with saved_bytes(self.learner) as kept_local:
            pending = receive(self.learner, a, self.batch, self.learner.message(self.incoming)[0])
        peaks = float(kept.peak), float(kept_local.peak)
        del output, pending
        return peaks


def _passes(forward: float, backward: float, to_input: float) -> tuple[float, float, float]:
    """F, B and W."""
    to_input = min(to_input, backward)
    return forward, to_input, backward - to_input


def _overheads(whole: Sequence[float], small: Sequence[float], share: float) -> dict[str, float]:
    """Of every pass, the o such that o + (whole − o) · share = small."""
    if share == 1:
        return {}
    found = [(part - all_ * share) / (1 - share) for all_, part in zip(whole, small, strict=True)]
    return {f"{name}_overhead": value for name, value in zip(PASSES, found, strict=True)}


def _timed(action: Callable[[], Tensor | None], a: Tensor) -> tuple[float, Tensor]:
    """(seconds, what the action gives)."""
    synchronize(a)
    start = time.perf_counter()
    result = action()
    synchronize(a)
    return time.perf_counter() - start, result  # type: ignore[return-value]
