"""What each block of a network needs, in bytes: counted on a step with tensors that have shapes and no content.

Nothing is computed and nothing large is made. The step is the real one, of the block's own code, so what is counted is
what the step will make: outputs, what autograd keeps for the backward pass, gradients, temporaries.
"""

import copy
from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)

from blocklocal._common.errors import InputError
from blocklocal._common.memory import saved_bytes
from blocklocal._common.message import (
    Forward,
    Given,
    Input,
    hidden_of,
    lead,
    map_message,
    named_tensors,
    tensors_of,
)
from blocklocal.block.learner import BlockLearner
from blocklocal.block.loss import OutputLoss
from blocklocal.block.optim import Optimizer
from blocklocal.block.step import StepContext
from blocklocal.block.values import Values
from blocklocal.network.network import BlockLocal
from blocklocal.rules.base import Batch, local_step
from blocklocal.streaming.ends import Ends
from blocklocal.streaming.live import Live
from blocklocal.streaming.needs import Footprint, Footprints, Pass
from blocklocal.streaming.resting import fill
from blocklocal.streaming.update_bytes import Update, Updates, bytes_of

CPU = torch.device("cpu")


def footprints(
    network: BlockLocal, x: Input, optimizer: Optimizer, *, precision: torch.dtype | None = None, cuda: bool = False
) -> Footprints:
    """What the blocks of a network need for batches like x.

    Args:
        network: on the meta device, or with content, which is not touched.
        x: a batch [B, …] on any device; its content does not matter.
        optimizer: of every block.
        precision: of the blocks' operations, as `BlockLocal.autocast` takes it.
        cuda: whether it is for CUDA, where torch's optimisers step all parameters of a block at once.

    Raises:
        InputError: a step needs the content of tensors, so it cannot be looked at without.
    """
    asked = Updates(optimizer, cuda=cuda)
    try:
        with CPU:  # also where the caller makes everything on the meta device
            updates = [(asked.of(learner.trainable()), asked.of(_trained(learner))) for learner in network.learners]
            learners = [_without_content(learner, precision) for learner in network.learners]
            with FakeTensorMode(allow_non_fake_inputs=True) as mode:
                return _looked_at(network, learners, x, updates, mode)
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        raise InputError(
            f"how much memory a step needs cannot be told, because the model looks at values in it ({error}): leave "
            "out the plan, and give the number of blocks and the visit yourself."
        ) from error


def _looked_at(
    network: BlockLocal,
    learners: Sequence[BlockLearner],
    x: Input,
    updates: Sequence[tuple[Update | None, Update | None]],
    mode: FakeTensorMode,
) -> Footprints:
    for learner in learners:
        fill(learner, {id(t): torch.empty(t.shape, dtype=t.dtype) for t in _tensors(learner)}, CPU)
    given = map_message(lambda t: torch.empty(t.shape, dtype=t.dtype), x)
    rows = torch.empty(network.rows.shape)
    with torch.no_grad():
        output: Any = given
        for learner in learners:
            output = learner(output)
    answer = network.targets.prediction_shape(hidden_of(output).shape)
    shape = (len(lead(x)), *network.targets.shape(answer[1:]))
    y = torch.empty(shape, dtype=torch.float32 if isinstance(network.targets, Values) else torch.int64)
    batch = Batch(given, y, rows, StepContext())
    blocks: list[Footprint] = []
    a: Given = given
    known = dict[Hashable, tuple[Footprint, Forward]]()
    for learner, target, update in zip(learners, _targets(learners, rows), updates, strict=True):
        kind = (learner_kind(learner), message_kind(a), target.shape, a is given)
        if kind not in known:
            known[kind] = _footprint(learner, a, target, batch, update)
        footprint, a = known[kind]
        blocks.append(replace(footprint, index=learner.index))

    def backprop() -> Pass:
        with CPU, mode:
            return _backprop(learners, given, batch)

    return Footprints(blocks, backprop, bytes_of([*tensors_of(given), y]), bytes_of([rows]))


def _footprint(
    learner: BlockLearner, a: Given, target: Tensor, batch: Batch, update: tuple[Update | None, Update | None]
) -> tuple[Footprint, Forward]:
    """(of one block, the message that it sends)."""
    ends = Ends(a, target)
    local = _local(learner, replace(batch, edges=ends))
    assert ends.sent is not None
    footprint = Footprint(
        index=learner.index,
        parts=_parts(learner),
        largest=max((bytes_of([t]) for t in _tensors(learner)), default=0),
        local=local,
        update=update[0],
        plain=_backprop([learner], a, batch),
        plain_update=update[1],
        received=bytes_of(tensors_of(a)),
        sent=bytes_of(tensors_of(ends.sent)),
    )
    return footprint, ends.sent


def _local(learner: BlockLearner, batch: Batch) -> Pass:
    with Live() as live, saved_bytes(learner) as saved:
        ending = _Ending(live)
        learner.optimizer, learner.schedule, learner.clip = ending, None, None  # type: ignore[assignment]
        learner.scale = learner.ema = None
        local_step([learner], batch)
    return Pass(_dropped_gradients([learner]), saved.peak, live.peak, ending.left)


def _backprop(learners: Sequence[BlockLearner], a: Given, batch: Batch) -> Pass:
    """Through these blocks, with a gradient at the input unless that is the batch."""
    given = map_message(Tensor.detach, a)
    source = lead(given)
    if learners[0].index and source.is_floating_point():
        source.requires_grad_()
    with Live() as live, saved_bytes(*learners) as saved, torch.enable_grad():
        out: Any = given
        for learner in learners:
            out = learner(out)
        if isinstance(learners[-1].local, OutputLoss):
            out = learners[-1].local(hidden_of(out), batch.y).loss
        out = hidden_of(out)
        if out.requires_grad:
            out.backward(torch.empty_like(out))
        source.grad = None
        left = live.live
    return Pass(_dropped_gradients(learners), saved.peak, live.peak, left)


class _Ending:
    """In the place of an optimiser: notes what is alive when the update begins."""

    def __init__(self, live: Live):
        self._live, self.left = live, 0

    def step(self) -> None:
        self.left = self._live.live

    def zero_grad(self, set_to_none: bool = True) -> None: ...


def _without_content(learner: BlockLearner, precision: torch.dtype | None) -> BlockLearner:
    """The same learner on the meta device, in training, without an optimiser. What it holds is not copied."""
    memo: dict[int, Any] = {id(learner.optimizer): None, id(learner.schedule): None}
    for tensor in _tensors(learner):
        shape = torch.empty_like(tensor, device="meta")
        named = isinstance(tensor, nn.Parameter)
        memo[id(tensor)] = nn.Parameter(shape, requires_grad=tensor.requires_grad) if named else shape
    made = copy.deepcopy(learner, memo).train()
    made.autocast = precision
    return made


@torch.no_grad()
def _targets(learners: Sequence[BlockLearner], rows: Tensor) -> list[Tensor]:
    """What the twin of every block starts from: the target rows, or what the twin of the block behind passes on."""
    found, incoming = [], rows
    for learner in reversed(learners):
        found.append(incoming)
        incoming = learner.message(incoming)[1]
    return found[::-1]


def message_kind(a: Given) -> Hashable:
    """Equal for messages of the same shapes and types, by the same names."""
    return tuple((name, t.shape, t.dtype) for name, t in named_tensors(a))


def learner_kind(learner: BlockLearner) -> Hashable:
    """Equal for learners whose steps are alike: the same modules, settings and shapes of tensors."""
    return tuple(_module_kind(module) for module in learner.modules())


def _module_kind(module: nn.Module) -> Hashable:
    """Names of children do not count: they number the layers of a network."""
    settings = {k: v for k, v in vars(module).items() if isinstance(v, bool | int | float | str | tuple)}
    settings.pop("index", None)
    held = [*module._parameters.items(), *module._buffers.items()]
    tensors = tuple((key, t.shape, t.dtype, t.requires_grad) for key, t in held if t is not None)
    return type(module), len(module._modules), repr(sorted(settings.items())), tensors


def _parts(learner: BlockLearner) -> dict[str, int]:
    """Tensors by the child of the learner, or of its local loss, that holds them; each counts once."""
    local = [] if learner.local is None else list(learner.local.named_children())
    found, seen = {}, set[int]()
    for name, part in [("block", learner.block), *local, ("other", learner)]:
        own = [t for t in _tensors(part) if id(t) not in seen]
        seen |= {id(t) for t in own}
        if own or name == "block":
            found[name] = bytes_of(own)
    return found


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def _trained(learner: BlockLearner) -> list[nn.Parameter]:
    """What backprop would train of it."""
    return [p for p in learner.block.parameters() if p.requires_grad]


def _dropped_gradients(learners: Sequence[BlockLearner]) -> int:
    """Bytes of the gradients, which are dropped."""
    size = bytes_of(p.grad for learner in learners for p in learner.parameters())
    for learner in learners:
        learner.optimizer = None
        learner.zero_grad(set_to_none=True)
    return size
