"""A module's forward as a list of operations (torch.fx), with its train and eval behaviour kept apart.

A trace freezes what Python decides while it runs, `training` flags above all. So the forward is traced in train and in
eval mode. Where only numbers or flags differ, the operation gets both (`Choice`). Where a module's forward cannot be
traced, does other things in the two modes, or keeps something on itself, the module becomes one operation that runs as
it is (a *piece*). The network itself cannot be one: it is refused.
"""

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from itertools import chain, zip_longest
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.parameter import is_lazy

from blocklocal._common.errors import InputError
from blocklocal.splitting.contexts import Mode
from blocklocal.splitting.copying import copy_in_mode
from blocklocal.splitting.recording import NotOneTensor, Record, Trouble, record

_IN_MODES = "in training than in evaluation"
_log = logging.getLogger("blocklocal")


@dataclass(frozen=True)
class Choice:
    """An argument that depends on the mode."""

    train: Any
    evaluate: Any


class ByMode(nn.Module):
    """Passes on the argument that belongs to the module's present mode."""

    def __init__(self, choice: Choice):
        super().__init__()
        self.choice = choice

    def forward(self) -> Any:
        return self.choice.train if self.training else self.choice.evaluate


@dataclass
class Operation:
    """One step of the forward.

    Attributes:
        args, kwargs: their values are fx.Node (of the trace), Choice or constants.
    """

    node: fx.Node
    scope: str  # dotted name of the module whose forward holds this step, or of the module that is called
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inputs: list[fx.Node] = field(default_factory=list)  # values it reads, without parameters and constants
    mode: Mode = field(default_factory=Mode)


@dataclass
class Trace:
    """Operations in order.

    Attributes:
        source: the network's input.
        result: its output.
        opaque: the modules that are one operation each because they could not be traced, with the reason.
    """

    source: fx.Node
    operations: list[Operation]
    result: fx.Node
    constants: dict[str, Tensor]
    opaque: dict[str, str]


def trace(model: nn.Module, leaves: Mapping[str, str] | None = None) -> Trace:
    """Trace `model`, a module of one tensor input and one output.

    Args:
        leaves: paths of modules that are one operation each, with the reason.

    Raises:
        InputError: the module cannot be traced.
    """
    kind, opaque = type(model).__name__, dict(leaves or {})
    while True:
        try:
            train, evaluate, modes = _records(model, opaque)
            found = _merge(train, evaluate, modes, opaque)
        except Trouble as trouble:
            if not trouble.path or trouble.path in opaque:
                raise _refusal(kind, trouble) from trouble
            opaque.update(dict.fromkeys(_alike(model, trouble.path), trouble.reason))
            continue
        if train.kept:
            names = ", ".join(f"self.{name}" for name in train.kept)
            _log.warning("the forward of %s sets %s, which its blocks do not.", kind, names)
        return found


def evaluation_trace(model: nn.Module) -> Trace:
    """The trace of eval mode alone.

    Raises:
        InputError: the module cannot be traced.
    """
    kind = type(model).__name__
    try:
        evaluate = record(copy_in_mode(model, training=False), ())
        return _merge(evaluate, evaluate, [Mode()] * len(evaluate.nodes), {})
    except Trouble as trouble:
        raise _refusal(kind, trouble) from trouble


def _alike(model: nn.Module, path: str) -> list[str]:
    """The paths of all modules of the same kind: what one cannot do, the others cannot either."""
    kind = type(model.get_submodule(path))
    if kind is nn.Sequential:
        return [path]
    return [name for name, module in model.named_modules(remove_duplicate=False) if name and type(module) is kind]


def _records(model: nn.Module, opaque: Collection[str]) -> tuple[Record, Record, list[Mode]]:
    """The forward in train mode, in eval mode, and what it sets for each operation of train mode. Raises Trouble."""
    # All share one random stream, so that a random number that was frozen shows as a difference.
    with torch.random.fork_rng(devices=[]):
        copied = copy_in_mode(model, training=True)
        train = record(copied, opaque)
        evaluate = record(copy_in_mode(model, training=False), opaque)
        again = record(copied, opaque, autocast=True)  # the same copy: what a call leaves behind meets the next one
    _check_unwritten(model, copied)
    _check_same(train, again, "in its second call than in its first, or where autocast is on")
    names = train.constants.keys()
    if names != evaluate.constants.keys() or any(
        not _equal(train.constants[name], evaluate.constants[name]) for name in names
    ):
        raise Trouble(_owner(train), "it makes a tensor that differs from call to call, which a trace would freeze")
    pairs = [(a, b) for (a, _), (b, _) in zip(train.outline(), again.outline(), strict=True)]
    for node in chain.from_iterable(pairs):
        if node.meta["owner"] and node.meta["state"][2] != node.meta["entered"][2]:
            # not recorded: it may have been set for another device than that of the run
            raise Trouble(node.meta["owner"], "its forward sets autocast")
    casts = {a: b.meta["state"] for a, b in pairs}
    return train, evaluate, [Mode.of(n.meta["state"], casts.get(n, n.meta["state"])) for n in train.nodes]


def _check_unwritten(model: nn.Module, copied: nn.Module) -> None:
    """Raise Trouble where tracing the copy has changed its weights: the trace does not hold what did so."""
    now = dict(chain(copied.named_parameters(), copied.named_buffers()))
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        plain = not is_lazy(tensor) and tensor.layout is torch.strided
        if (
            plain
            and not tensor.is_meta
            and not tensor.is_quantized
            and not torch.equal(*map(_bits, (tensor, now[name])))
        ):
            raise Trouble(name.rpartition(".")[0], f"its forward changes {name!r} in a way that a trace would lose")


def _bits(tensor: Tensor) -> Tensor:
    return tensor.detach().resolve_conj().contiguous().reshape(-1).view(torch.uint8)


def _equal(a: Any, b: Any) -> bool:
    return torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else a == b


def _owner(found: Record) -> str:
    """The module that reads a tensor which is no parameter or buffer."""
    owners = [node.meta["owner"] for node in found.nodes if str(node.target) in found.constants]
    return owners[0] if len(set(owners)) == 1 else ""


def _check_same(one: Record, other: Record, when: str) -> None:
    """Raise Trouble for the module that does not do the same in both."""
    different = one.calls.difference(other.calls)
    if different is None:
        pairs = zip(one.outline(), other.outline(), strict=True)
        different = next((node.meta["owner"] for (node, a), (_, b) in pairs if a != b), None)
    if different is not None:
        raise Trouble(different, f"its forward does other things {when}")


def _merge(train: Record, evaluate: Record, modes: list[Mode], opaque: dict[str, str]) -> Trace:
    """One trace from two that differ in flags and numbers only."""
    different = train.calls.difference(evaluate.calls)
    if different is not None:
        raise Trouble(different, f"its forward runs other operations {_IN_MODES}")
    for a, b in zip_longest(train.nodes, evaluate.nodes):
        if a is None or b is None or (a.op, a.target, a.meta["state"]) != (b.op, b.target, b.meta["state"]):
            raise Trouble((a or b).meta["owner"], f"its forward reads or sets other things {_IN_MODES}")
    twin = dict(zip(evaluate.nodes, train.nodes, strict=True))
    operations = []
    for a, b, mode in zip(train.nodes, evaluate.nodes, modes, strict=True):
        try:
            args, kwargs = _both(a.args, b.args, twin), _both(a.kwargs, b.kwargs, twin)
        except _DifferError as reason:
            name = a.target if a.op == "call_module" else a.name
            raise Trouble(a.meta["owner"], f"the arguments of {name!r} are others {_IN_MODES}") from reason
        if a.op not in ("placeholder", "get_attr", "output"):
            inputs = [node for node in a.all_input_nodes if node.op != "get_attr"]
            operations.append(Operation(a, str(a.meta["scope"]), args, kwargs, inputs, mode))
    result = train.nodes[-1].args[0]
    if not isinstance(result, fx.Node) or isinstance(result.target, type):
        kind = getattr(result.target, "__name__", "") if isinstance(result, fx.Node) else type(result).__name__
        raise NotOneTensor("", f"its forward must return one tensor, not {kind.removeprefix('immutable_')}")
    return Trace(train.nodes[0], operations, result, train.constants, opaque)


class _DifferError(Exception):
    pass


def _both(a: Any, b: Any, twin: dict[fx.Node, fx.Node]) -> Any:
    if isinstance(a, fx.Node) and isinstance(b, fx.Node) and twin.get(b) is a:
        return a
    if isinstance(a, (tuple, list)) and type(a) is type(b) and len(a) == len(b):
        items = [_both(x, y, twin) for x, y in zip(a, b, strict=True)]
        return tuple(items) if isinstance(a, tuple) else items
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return {key: _both(a[key], b[key], twin) for key in a}
    if isinstance(a, slice) and isinstance(b, slice):
        return slice(*(_both(getattr(a, k), getattr(b, k), twin) for k in ("start", "stop", "step")))
    plain = (bool, int, float, str, type(None))
    if not isinstance(a, fx.Node) and not isinstance(b, fx.Node) and a == b:
        return a
    if isinstance(a, plain) and isinstance(b, plain):
        return Choice(a, b)
    raise _DifferError


def _refusal(kind: str, trouble: Trouble) -> InputError:
    if isinstance(trouble, NotOneTensor):
        return InputError(
            f"{kind} cannot be cut: {trouble.reason}. Wrap it in a module whose forward takes one tensor, calls it and "
            "returns one tensor."
        )
    return InputError(
        f"{kind} cannot be traced by torch.fx: {trouble.reason}. Put that part into a module of its own, which then "
        "runs as it is; or write the network as nn.Sequential, or give it a method units() -> list of (name, module) "
        "pairs which, applied in order, equal its forward."
    )
