"""A module's forward as a list of operations (torch.fx), with its train and eval behaviour kept apart.

A trace freezes what Python decides while it runs, `training` flags above all. So the forward is traced twice, in train
and in eval mode. Where only numbers or flags differ, the operation gets both (`Choice`); where the operations differ,
the module is refused.
"""

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from blocklocal.errors import InputError


@dataclass(frozen=True)
class Choice:
    """An argument that depends on the mode."""

    train: Any
    evaluate: Any


class ByMode(nn.Module):
    """Returns the argument that belongs to the module's present mode."""

    def __init__(self, choice: Choice):
        super().__init__()
        self.choice = choice

    def forward(self) -> Any:
        return self.choice.train if self.training else self.choice.evaluate


@dataclass
class Operation:
    """One step of the forward. Values in `args` and `kwargs` are fx.Node (of the trace), Choice or constants."""

    node: fx.Node
    scope: str  # dotted name of the module whose forward holds this step, or of the module that is called
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inputs: list[fx.Node] = field(default_factory=list)  # values it reads, without parameters and constants


@dataclass
class Trace:
    """Operations in order; `source` is the network's input and `result` its output."""

    source: fx.Node
    operations: list[Operation]
    result: fx.Node
    constants: dict[str, Tensor]


class _ScopeTracer(fx.Tracer):
    proxy_buffer_attributes = True  # or operations on buffers would run while tracing, and be frozen

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = [""]

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: tuple, kwargs: dict) -> Any:
        self.stack.append(self.path_of_module(m))
        try:
            return super().call_module(m, forward, args, kwargs)
        finally:
            self.stack.pop()

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(*args, **kwargs)
        node.meta["scope"] = self.stack[-1]
        return node


def trace(model: nn.Module) -> Trace:
    """Trace `model`, a module of one tensor input and one output. Raises InputError where that is impossible."""
    kind = type(model).__name__
    # On a copy: a trace may leave constants behind in the module. Both share one random stream, so that a random
    # number that was frozen shows as a difference.
    with torch.random.fork_rng(devices=[]):
        train, train_constants = _graph(copy.deepcopy(model).train(), kind)
        evaluate, eval_constants = _graph(copy.deepcopy(model).eval(), kind)
    if train_constants.keys() != eval_constants.keys() or any(
        not torch.equal(train_constants[name], eval_constants[name]) for name in train_constants
    ):
        raise _refusal(kind, "it makes a tensor that differs from call to call, which a trace would freeze")
    return _merge(train, evaluate, train_constants, kind)


def _graph(model: nn.Module, kind: str) -> tuple[list[fx.Node], dict[str, Tensor]]:
    parameters = list(inspect.signature(model.forward).parameters.values())
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    # Optional arguments keep their defaults, as in model(x).
    defaults = {p.name: p.default for p in parameters[1:] if p.default is not p.empty and p.kind not in variadic}
    required = [p.name for p in parameters[1:] if p.default is p.empty and p.kind not in variadic]
    if not parameters or required:
        raise _refusal(kind, f"its forward must take one tensor, but it also needs {required}")
    try:
        graph = _ScopeTracer().trace(model, concrete_args=defaults or None)
    except Exception as reason:  # tracing runs the user's forward, which may fail in any way
        raise _refusal(kind, str(reason).strip().split("\n")[0]) from reason
    nodes = [node for node in _without_defaults(graph).nodes if node.op != "get_attr" or node.users]
    known = {name for name, _ in [*model.named_parameters(remove_duplicate=False)]}
    known |= {name for name, _ in model.named_buffers(remove_duplicate=False)}
    attributes = {str(node.target) for node in nodes if node.op == "get_attr"} - known
    return nodes, {name: _attribute(model, name) for name in attributes}


def _without_defaults(graph: fx.Graph) -> fx.Graph:
    """Remove the placeholders of optional arguments, and the checks of their values that fx adds."""
    extra = set([node for node in graph.nodes if node.op == "placeholder"][1:])
    for node in graph.nodes:
        if node.op == "call_function" and extra.intersection(node.all_input_nodes):
            extra.add(node)
    for node in reversed(list(graph.nodes)):
        if node in extra and not node.users:
            graph.erase_node(node)
    return graph


def _attribute(model: nn.Module, name: str) -> Any:
    owner, _, leaf = name.rpartition(".")
    return getattr(model.get_submodule(owner), leaf)


def _merge(train: list[fx.Node], evaluate: list[fx.Node], constants: dict[str, Tensor], kind: str) -> Trace:
    """One trace from two that differ in flags and numbers only."""
    same = len(train) == len(evaluate)
    twin = dict(zip(evaluate, train, strict=False))
    operations = []
    for a, b in zip(train, evaluate, strict=False):
        if not same or (a.op, a.target) != (b.op, b.target):
            raise _refusal(kind, f"its forward runs other operations in training than in evaluation (at {a.name!r})")
        try:
            args, kwargs = _both(a.args, b.args, twin), _both(a.kwargs, b.kwargs, twin)
        except _DifferError as reason:
            raise _refusal(kind, f"the arguments of {a.name!r} differ between training and evaluation") from reason
        if a.op not in ("placeholder", "get_attr", "output"):
            inputs = [node for node in a.all_input_nodes if node.op != "get_attr"]
            operations.append(Operation(a, str(a.meta["scope"]), args, kwargs, inputs))
    result = train[-1].args[0]
    if not isinstance(result, fx.Node):
        raise _refusal(kind, f"its forward must return one tensor, not {type(result).__name__}")
    return Trace(train[0], operations, result, constants)


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


def _refusal(kind: str, reason: str) -> InputError:
    return InputError(
        f"{kind} cannot be traced by torch.fx: {reason}. Write it as nn.Sequential, or give it a method "
        "units() -> list of (name, module) pairs which, applied in order, equal its forward."
    )
