"""A module out of some operations of a trace."""

from collections.abc import Callable
from typing import Any

from torch import fx, nn

from blocklocal.splitting.contexts import Mode, Within
from blocklocal.splitting.sizes import Sizes
from blocklocal.splitting.tracing import ByMode, Choice, Operation, Trace


class BlockBuilder:
    """Copies operations into a graph of their own, whose input is `source` of the trace."""

    def __init__(self, model: nn.Module, trace: Trace, sizes: Sizes, source: fx.Node):
        self.model, self.constants, self.sizes, self.source = model, trace.constants, sizes, source
        self.graph = fx.Graph()
        self.made: dict[fx.Node, fx.Node] = {source: self.graph.placeholder("x")}
        self.root: dict[str, Any] = {}
        self.training = model.training  # the mode of the user's module that the present operation belongs to

    def copy_input(self, source: fx.Node) -> None:
        self.made[source] = self.graph.call_method("clone", (self.made[source],))

    def add(self, op: Operation) -> None:
        self.training = self.model.get_submodule(op.scope).training
        args, kwargs = self._map(op.args), self._map(op.kwargs)
        kind, target = op.node.op, op.node.target
        if kind == "call_module":
            self.root[str(target)] = self.model.get_submodule(str(target))
        if op.mode != Mode():
            if kind == "call_module":
                args = (self.graph.get_attr(str(target)), *args)
            within = Within(op.mode, None if kind == "call_module" else target)
            kind, target = "call_module", self._helper("within", within)
        self.made[op.node] = self.graph.create_node(kind, target, args, kwargs, name=op.node.name)

    def finish(self, result: fx.Node) -> fx.GraphModule:
        self.graph.output(self.made[result])
        return fx.GraphModule(self.root, self.graph)

    def _map(self, value: Any) -> Any:
        if isinstance(value, fx.Node):
            return self._value(value)
        if isinstance(value, Choice):
            return self.graph.call_module(self._helper("by_mode", ByMode(value)))
        return _map_inside(value, self._map)

    def _value(self, node: fx.Node) -> fx.Node:
        if node not in self.made:
            self.made[node] = self._number(node) if node in self.sizes.numbers else self._attribute(node)
        return self.made[node]

    def _number(self, node: fx.Node) -> fx.Node:
        """A number that the forward reads off a tensor, read off one that is here."""
        op, tensor = self.sizes.numbers[node], self.sizes.batch_read(node)
        if tensor is not None and tensor not in self.made:
            return self.graph.call_method("size", (self.made[self.source], 0))
        for tensor in op.inputs:
            if tensor not in self.sizes.numbers:
                self.made.setdefault(tensor, self.made[self.source])
        args, kwargs = self._map(op.args), self._map(op.kwargs)
        return self.graph.create_node(op.node.op, op.node.target, args, kwargs, name=op.node.name)

    def _attribute(self, node: fx.Node) -> fx.Node:
        name = str(node.target)
        if name in self.constants:
            self.root[name] = self.constants[name]
        else:
            owner, _, leaf = name.rpartition(".")
            self.root[name] = getattr(self.model.get_submodule(owner), leaf)
        return self.graph.get_attr(name)

    def _helper(self, kind: str, module: nn.Module) -> str:
        """Add a module of the library's own, in the present mode; returns its name."""
        name = f"{kind}_{sum(key.startswith(f'{kind}_') for key in self.root)}"
        module.training = self.training
        self.root[name] = module
        return name


def _map_inside(value: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, tuple):
        return tuple(change(item) for item in value)
    if isinstance(value, list):
        return [change(item) for item in value]
    if isinstance(value, dict):
        return {key: change(item) for key, item in value.items()}
    if isinstance(value, slice):
        return slice(change(value.start), change(value.stop), change(value.step))
    return value
