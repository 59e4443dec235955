"""One run of a module's forward, recorded by torch.fx as operations, with what the recording could not follow."""

import inspect
import sys
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from blocklocal._common.errors import first_line
from blocklocal.splitting.contexts import State, ordinary, state
from blocklocal.splitting.layers import has_hooks, is_layer, owns_train

_APPLY = torch.autograd.Function.apply.__func__.__code__  # pyrefly: ignore


class Trouble(Exception):
    """What a trace of the module at `path` (empty: the whole network) would get wrong.

    The module may run as it is instead, as one piece.
    """

    def __init__(self, path: str, reason: str):
        super().__init__(reason)
        self.path, self.reason = path, reason


class NotOneTensor(Trouble):
    """The network takes or gives something else than one tensor."""


@dataclass
class Call:
    """A forward that was traced through: the operations in it, and the forwards it called, in order."""

    path: str
    events: "list[Call | fx.Node]" = field(default_factory=list)
    entered: State = field(default_factory=state)

    def outline(self) -> list[tuple[str, Any]]:
        """What it does itself, without what the forwards do that it calls."""
        return [("call", e.path) if isinstance(e, Call) else (e.op, e.target) for e in self.events]

    def difference(self, other: "Call") -> str | None:
        """The path of the first forward that does other things than in `other`; None where all do the same."""
        if self.outline() != other.outline():
            return self.path
        pairs = zip(self.events, other.events, strict=True)
        inner = (a.difference(b) for a, b in pairs if isinstance(a, Call) and isinstance(b, Call))
        return next((path for path in inner if path is not None), None)


@dataclass
class Record:
    """The nodes of one trace in order, with its constants and its calls.

    Attributes:
        constants: tensors that are no parameters or buffers, by name.
        calls: the tree of calls.
        kept: names of attributes of the whole network that its forward sets.
    """

    nodes: list[fx.Node]
    constants: dict[str, Tensor]
    calls: Call
    kept: list[str]

    def outline(self) -> list[tuple[fx.Node, Any]]:
        """Every operation with what it does, to compare two records by; tensors that are held count as equal."""
        steps = [node for node in self.nodes if node.op != "get_attr"]
        place = {node: i for i, node in enumerate(steps)}
        places = [fx.node.map_arg((n.args, n.kwargs), lambda node: f"step {place.get(node)}") for n in steps]
        return [(node, (node.op, node.target, given)) for node, given in zip(steps, places, strict=True)]


class _Tracer(fx.Tracer):
    """Leaves the modules in `opaque` whole, and notes where each operation comes from."""

    proxy_buffer_attributes = True  # or operations on buffers would run while tracing, and be frozen

    def __init__(self, opaque: Collection[str]) -> None:
        super().__init__()
        self.opaque = opaque
        self.stack: list[Call] = []
        self.blamed: str | None = None

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        whole = module_qualified_name in self.opaque or is_layer(m) or has_hooks(m) or owns_train(m)
        compiled = isinstance(m, torch.jit.ScriptModule) or hasattr(m, "_orig_mod")
        return whole or compiled or super().is_leaf_module(m, module_qualified_name)

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> Any:
        """One tensor and nothing else, as in model(x); Python itself fills in all other arguments."""
        self.stack.append(Call(""))
        return _forward, [self.root, self.create_proxy("placeholder", "x", (), {})]

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: tuple, kwargs: dict) -> Any:
        path = self.path_of_module(m)
        if self.is_leaf_module(m, path):
            return super().call_module(m, forward, args, kwargs)
        call = Call(path)
        self.stack[-1].events.append(call)
        self.stack.append(call)
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            self.blamed = path if self.blamed is None else self.blamed
            raise
        finally:
            self.stack.pop()

    def create_arg(self, a: Any) -> Any:
        if isinstance(a, fx.Proxy) and a.tracer is not self:
            raise RuntimeError("it keeps a tensor from one call to the next, which a trace would lose")
        return super().create_arg(a)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        node, call = super().create_node(*args, **kwargs), self.stack[-1]
        node.meta.update(owner=call.path, state=state(), entered=call.entered)
        node.meta["scope"] = str(node.target) if node.op == "call_module" else call.path
        if node.op not in ("placeholder", "get_attr"):
            call.events.append(node)
        if not torch.is_grad_enabled() and (function := _autograd_function()):
            raise RuntimeError(f"it calls the autograd function {function}, whose own gradient a trace would lose")
        return node


def _forward(root: nn.Module, x: fx.Proxy) -> Any:
    return root.forward(x)


def _autograd_function() -> str | None:
    """The torch.autograd.Function inside whose forward this runs."""
    frame = sys._getframe()
    while frame is not None:
        if frame.f_code is _APPLY:
            return frame.f_locals["cls"].__name__
        frame = frame.f_back
    return None


def record(model: nn.Module, opaque: Collection[str], *, autocast: bool = False) -> Record:
    """Trace the forward of `model`, which is a copy: a trace may leave things behind in it.

    Raises:
        Trouble: a trace would get something wrong.
    """
    _check_signature(model)
    tracer, before = _Tracer(opaque), _attributes(model)
    try:
        with ordinary(autocast=autocast):
            graph = tracer.trace(model)
    except Exception as reason:  # tracing runs the user's forward, which may fail in any way
        raise Trouble(tracer.blamed or "", first_line(reason)) from reason
    nodes = [node for node in graph.nodes if node.op != "get_attr" or node.users]
    return Record(nodes, _constants(model, nodes), tracer.stack[0], _kept(before, _attributes(model)))


def _check_signature(model: nn.Module) -> None:
    try:
        parameters = list(inspect.signature(model.forward).parameters.values())
    except (TypeError, ValueError):  # nothing that Python can look into
        return
    kinds = inspect.Parameter
    by_place = [p for p in parameters if p.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)]
    takes_one = bool(by_place) or any(p.kind is kinds.VAR_POSITIONAL for p in parameters)
    variadic = (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD)
    required = [p.name for p in parameters if p.default is p.empty and p.kind not in variadic and p not in by_place[:1]]
    if not takes_one:
        raise NotOneTensor("", "its forward must take one tensor, by place, as in model(x)")
    if required:
        raise NotOneTensor("", f"its forward must take one tensor, but it also needs {', '.join(required)}")


def _constants(model: nn.Module, nodes: list[fx.Node]) -> dict[str, Tensor]:
    """Tensors that the forward made or that are plain attributes. Raises Trouble for one that comes from weights."""
    known = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    known |= {name for name, _ in model.named_buffers(remove_duplicate=False)}
    held = [node for node in nodes if node.op == "get_attr" and node.target not in known]
    constants = {}
    for node in held:
        owner, _, leaf = str(node.target).rpartition(".")
        value = getattr(model.get_submodule(owner), leaf)
        if isinstance(value, nn.Module):
            raise Trouble(node.meta["owner"], f"it hands the module {str(node.target)!r} to a function")
        if isinstance(value, Tensor) and value.requires_grad:
            raise Trouble(node.meta["owner"], "it computes with weights in a way that a trace would freeze")
        constants[str(node.target)] = value.detach() if isinstance(value, Tensor) else value
    return constants


_Attributes = dict[tuple[str, str], Any]


def _attributes(model: nn.Module) -> _Attributes:
    """Every plain attribute of every module by (path, name)."""
    registries = ("_parameters", "_buffers", "_modules")
    return {
        (path, name): value
        for path, module in model.named_modules()
        for name, value in vars(module).items()
        if name not in registries and not name.startswith("_tensor_constant")
    }


def _kept(before: _Attributes, after: _Attributes) -> list[str]:
    """The attributes of the network that its forward has set. Raises Trouble where another module keeps something."""
    changed = [key for key, value in after.items() if _differs(before.get(key, before), value)]
    for path, name in changed:
        if name == "training":
            raise Trouble(path.rpartition(".")[0], f"its forward switches {path!r} between training and evaluation")
        if path:
            raise Trouble(path, f"its forward sets self.{name}, which a trace would lose")
    return [name for _, name in changed]


def _differs(old: Any, new: Any) -> bool:
    if isinstance(new, (bool, int, float, str)):
        return type(old) is not type(new) or old != new
    changed = new is not old and (new is None or isinstance(new, Tensor))
    return changed or any(True for _ in _proxies(new))


def _proxies(value: Any) -> Iterator[fx.Proxy]:
    if isinstance(value, fx.Proxy):
        yield value
    elif isinstance(value, (list, tuple, set)):
        for item in value:
            yield from _proxies(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _proxies(item)
