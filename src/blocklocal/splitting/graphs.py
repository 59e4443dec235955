"""A traced network as something to cut: where exactly one value crosses, and modules for what lies between cuts."""

from collections.abc import Iterator

from torch import fx, nn

from blocklocal.errors import InputError
from blocklocal.splitting.chains import ACTIVATIONS, PASSIVE, is_weighted
from blocklocal.splitting.operations import ACTIVATION_NAMES, ADDITIONS, POOLS, VIEWS, WEIGHTED, is_in_place, name_of
from blocklocal.splitting.rebuild import BlockBuilder
from blocklocal.splitting.tracing import Operation, trace


class TracedNetwork:
    """A plan to cut a module of any form; positions are indices into its traced operations."""

    def __init__(self, model: nn.Module):
        self.model = model
        self.trace = trace(model)
        self.operations = self.trace.operations
        self.length = len(self.operations)
        self.modules = dict(model.named_modules(remove_duplicate=False))
        self._parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        self._produced = {self.trace.source: -1} | {op.node: i for i, op in enumerate(self.operations)}
        self._last_use = {node: i for i, op in enumerate(self.operations) for node in op.inputs}
        self._last_use[self.trace.result] = self.length
        self._readers: dict[fx.Node, list[Operation]] = {}
        for op in self.operations:
            for node in op.inputs:
                self._readers.setdefault(node, []).append(op)
        self.unit_starts = list(self._unit_starts())

    def crossing(self, position: int) -> list[fx.Node]:
        """The values made before `position` that are read at or after it."""
        made = self._produced.items()
        return [node for node, at in made if at < position and self._last_use.get(node, -1) >= position]

    def locate(self, name: str) -> int | None:
        """Where the named submodule is first called. Raises InputError where more than one value crosses there."""
        module = self.modules[name]
        path = next(known for known, other in self.model.named_modules() if other is module)
        inside = (i for i, op in enumerate(self.operations) if f"{op.scope}.".startswith(f"{path}."))
        position = next(inside, None)
        if position is None:
            raise InputError(
                f"cannot cut at {name!r}: the forward never calls it by itself. Name a module that it calls: "
                f"{', '.join(self._names())}."
            )
        if position > 0:
            self._check_cut(name, position)
        return position

    def label(self, start: int, stop: int) -> str:
        """The names of the first and the last module that the operations call."""
        scopes = [op.scope for op in self.operations[start:stop] if op.node.op == "call_module"]
        weighted = [s for s in scopes if any(True for _ in self.modules[s].parameters())] or scopes
        if not weighted:
            return self.operations[start].node.name
        return weighted[0] if weighted[0] == weighted[-1] else f"{weighted[0]}–{weighted[-1]}"

    def after_activation(self, position: int) -> bool:
        """Whether the value that crosses has passed an activation already."""
        node = self.crossing(position)[0]
        while (at := self._produced[node]) >= 0:
            op = self.operations[at]
            if self._is_activation(op):
                return True
            passive = name_of(op) in VIEWS | POOLS or isinstance(self._module(op), PASSIVE)
            if not passive or not op.inputs:
                return False
            node = op.inputs[0]
        return False

    def build(self, start: int, stop: int) -> fx.GraphModule:
        """The operations from `start` to `stop` as a module that shares the user's submodules, under their names."""
        source = self.crossing(start)[0] if start else self.trace.source
        builder = BlockBuilder(self.model, self.trace.constants, source)
        if start > 0 and self._overwrites(source):
            builder.copy_input(source)
        for op in self.operations[start:stop]:
            builder.add(op)
        return builder.finish(self.crossing(stop)[0] if stop < self.length else self.trace.result)

    def _unit_starts(self) -> Iterator[int]:
        """One weighted operation or residual sum per unit, as in `chains.unit_starts`, at legal cuts only."""
        yield 0
        last = max((i for i, op in enumerate(self.operations) if self._is_weighted(op)), default=0)
        weighted = False
        for i, op in enumerate(self.operations[: last + 1]):
            heavy = self._is_weighted(op)
            after_sum = i > 0 and name_of(self.operations[i - 1]) in ADDITIONS
            if weighted and (heavy or after_sum or self._is_activation(op)) and self._is_legal(i):
                yield i
                weighted = False
            weighted = weighted or heavy

    def _is_legal(self, position: int) -> bool:
        nodes = self.crossing(position)
        readers = self._readers.get(nodes[0], []) if nodes else []
        unpacked = all(name_of(op) == "getitem" and isinstance(op.args[1], int) for op in readers)
        return len(nodes) == 1 and not unpacked  # a tuple that is unpacked behind the cut is several values

    def _check_cut(self, name: str, position: int) -> None:
        if self._is_legal(position):
            return
        nodes = self.crossing(position)
        values = "; ".join(f"{self._describe(node)} (last read in {self._last_reader(node)})" for node in nodes)
        several = f"{len(nodes)} cross, so a skip connection would be severed" if len(nodes) > 1 else "a tuple crosses"
        legal = list(dict.fromkeys(self.label(i, self.length).split("–")[0] for i in self.unit_starts[1:]))[:4]
        advice = f", for example at {', '.join(legal)}" if legal else ""
        raise InputError(
            f"cannot cut at {name!r}: a cut must pass one tensor on, and here {several}: {values}. "
            f"Cut where the paths have joined{advice}."
        )

    def _describe(self, node: fx.Node) -> str:
        if node.op == "placeholder":
            return "the network's input"
        op = self.operations[self._produced[node]]
        if node.op == "call_module":
            return f"the output of {op.scope!r}"
        return f"the result of {name_of(op)} in {op.scope or 'the forward'!r}"

    def _last_reader(self, node: fx.Node) -> str:
        at = self._last_use[node]
        return repr(self.operations[at].scope or "the forward") if at < self.length else "the output"

    def _names(self) -> list[str]:
        return list(dict.fromkeys(op.scope for op in self.operations if op.scope))

    def _module(self, op: Operation) -> nn.Module | None:
        return self.modules[str(op.node.target)] if op.node.op == "call_module" else None

    def _is_weighted(self, op: Operation) -> bool:
        module = self._module(op)
        if module is not None:
            return is_weighted(module)
        reads = any(n.op == "get_attr" and n.target in self._parameters for n in op.node.all_input_nodes)
        return reads and name_of(op) in WEIGHTED

    def _is_activation(self, op: Operation) -> bool:
        return isinstance(self._module(op), ACTIVATIONS) or name_of(op) in ACTIVATION_NAMES

    def _overwrites(self, source: fx.Node) -> bool:
        """Whether an operation may change `source` in place, directly or through a view of it."""
        for op in self._readers.get(source, []):
            module = self._module(op)
            if is_in_place(op, module):
                return True
            looks_through = name_of(op) in VIEWS or isinstance(module, PASSIVE)
            if looks_through and self._overwrites(op.node):
                return True
        return False
