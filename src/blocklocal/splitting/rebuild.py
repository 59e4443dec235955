"""A module out of some operations of a trace."""

from collections.abc import Callable
from typing import Any

from torch import fx, nn

from blocklocal.splitting.tracing import ByMode, Choice, Operation


class BlockBuilder:
    """Copies operations into a graph of their own."""

    def __init__(self, model: nn.Module, constants: dict[str, Any], source: fx.Node):
        self.model, self.constants = model, constants
        self.graph = fx.Graph()
        self.made: dict[fx.Node, fx.Node] = {source: self.graph.placeholder("x")}
        self.root: dict[str, Any] = {}
        self.training = model.training  # the mode of the user's module that the present operation belongs to

    def copy_input(self, source: fx.Node) -> None:
        self.made[source] = self.graph.call_method("clone", (self.made[source],))

    def add(self, op: Operation) -> None:
        self.training = self.model.get_submodule(op.scope).training
        args, kwargs = self._map(op.args), self._map(op.kwargs)
        if op.node.op == "call_module":
            self.root[str(op.node.target)] = self.model.get_submodule(str(op.node.target))
        self.made[op.node] = self.graph.create_node(op.node.op, op.node.target, args, kwargs, name=op.node.name)

    def finish(self, result: fx.Node) -> fx.GraphModule:
        self.graph.output(self.made[result])
        return fx.GraphModule(self.root, self.graph)

    def _map(self, value: Any) -> Any:
        if isinstance(value, fx.Node):
            return self.made[value] if value in self.made else self._attribute(value)
        if isinstance(value, Choice):
            return self._choice(value)
        return _map_inside(value, self._map)

    def _attribute(self, node: fx.Node) -> fx.Node:
        name = str(node.target)
        if name in self.constants:
            self.root[name] = self.constants[name]
        else:
            owner, _, leaf = name.rpartition(".")
            self.root[name] = getattr(self.model.get_submodule(owner), leaf)
        self.made[node] = self.graph.get_attr(name)
        return self.made[node]

    def _choice(self, choice: Choice) -> fx.Node:
        name = f"by_mode_{sum(key.startswith('by_mode_') for key in self.root)}"
        self.root[name] = ByMode(choice)
        self.root[name].training = self.training
        return self.graph.call_module(name)


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
