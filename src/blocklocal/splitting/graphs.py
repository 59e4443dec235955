"""A traced network as something to cut: where exactly one value crosses, and modules for what lies between cuts."""

from collections.abc import Iterator, Sequence

from torch import fx, nn

from blocklocal._common.errors import InputError
from blocklocal.splitting.layers import ACTIVATIONS, PASSIVE, is_weighted
from blocklocal.splitting.operations import ACTIVATION_NAMES, ADDITIONS, POOLS, VIEWS, WEIGHTED, is_in_place, name_of
from blocklocal.splitting.rebuild import BlockBuilder
from blocklocal.splitting.sizes import Sizes
from blocklocal.splitting.tracing import Operation, Trace, evaluation_trace, trace


class TracedNetwork:
    """A plan to cut a module of any form; positions are indices into its traced operations.

    Args:
        given: the module's trace, where it is known already.
    """

    def __init__(self, model: nn.Module, given: Trace | None = None):
        self.model = model
        self.trace = trace(model) if given is None else given
        self.operations = self.trace.operations
        self.length = len(self.operations)
        self.modules = dict(model.named_modules(remove_duplicate=False))
        self.sizes = Sizes(self.operations, self.trace.source, self.modules)
        self._parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        self._produced = {self.trace.source: -1} | {op.node: i for i, op in enumerate(self.operations)}
        steps = [(i, op) for i, op in enumerate(self.operations) if op.node not in self.sizes.numbers]
        self._last_use = {node: i for i, op in steps for node in op.inputs}
        self._last_use[self.trace.result] = self.length
        self._readers: dict[fx.Node, list[Operation]] = {}
        for _, op in steps:
            for node in op.inputs:
                self._readers.setdefault(node, []).append(op)
        self.piece_starts = list(self._piece_starts())

    @property
    def opaque(self) -> dict[str, str]:
        """The modules that run as one operation because they could not be traced, with the reason."""
        return self.trace.opaque

    def crossing(self, position: int) -> list[fx.Node]:
        """The values made before `position` that are read at or after it.

        Of numbers only those are listed which a block cannot read again off the one tensor that crosses, or off a
        tensor that it makes.
        """
        used = [node for node, at in self._last_use.items() if at >= position]
        tensors = [node for node in used if node not in self.sizes.numbers and self._produced[node] < position]
        if len(tensors) != 1:
            return tensors
        return tensors + [n for n in used if n in self.sizes.numbers and not self._reread(n, tensors[0], position)]

    def _reread(self, number: fx.Node, crossing: fx.Node, position: int) -> bool:
        return all(
            self._produced[tensor] >= position or self.sizes.readable(tensor, what, crossing)
            for tensor, what in self.sizes.reads(number)
        )

    def locate(self, name: str) -> int | None:
        """Where the named submodule is first called.

        Raises:
            InputError: the forward never calls it by itself, or more than one value crosses there.
        """
        module = self.modules[name]
        path = next(known for known, other in self.model.named_modules() if other is module)
        inside = (i for i, op in enumerate(self.operations) if f"{op.scope}.".startswith(f"{path}."))
        position = next(inside, None)
        if position is None:
            whole = next((known for known in self.opaque if f"{path}.".startswith(f"{known}.")), None)
            reason = "the forward never calls it by itself"
            if whole is not None:
                reason = f"it lies inside {whole!r}, which runs as one piece, because {self.opaque[whole]}"
            raise InputError(
                f"cannot cut at {name!r}: {reason}. Name a module that the forward calls: {', '.join(self._names())}."
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
            if self._is_activation(op) or self._ends_activated(op):
                return True
            passive = name_of(op) in VIEWS | POOLS or isinstance(self._module(op), PASSIVE)
            if not passive or not op.inputs:
                return False
            node = op.inputs[0]
        return False

    def build(self, start: int, stop: int) -> fx.GraphModule:
        """The operations from `start` to `stop` as a module that shares the user's submodules, under their names."""
        source = self.crossing(start)[0] if start else self.trace.source
        builder = BlockBuilder(self.model, self.trace, self.sizes, source)
        if start > 0 and self._overwrites(source):
            builder.copy_input(source)
        for op in self.operations[start:stop]:
            if op.node not in self.sizes.numbers:
                builder.add(op)
        return builder.finish(self.crossing(stop)[0] if stop < self.length else self.trace.result)

    def _piece_starts(self) -> Iterator[int]:
        """One weighted operation or residual sum per piece, as in `chains.piece_starts`, at legal cuts only."""
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
        numbers = [node for node in nodes if node in self.sizes.numbers]
        if numbers:
            raise InputError(self._about_numbers(name, numbers))
        values = "; ".join(f"{self._describe(node)} (last read in {self._last_reader(node)})" for node in nodes)
        several = f"{len(nodes)} cross, so a skip connection would be severed" if len(nodes) > 1 else "a tuple crosses"
        legal = list(dict.fromkeys(self.label(i, self.length).split("–")[0] for i in self.piece_starts[1:]))[:4]
        advice = f", for example at {', '.join(legal)}" if legal else ""
        raise InputError(
            f"cannot cut at {name!r}: a cut must pass one tensor on, and here {several}: {values}. "
            f"Cut where the paths have joined{advice}."
        )

    def _about_numbers(self, name: str, numbers: Sequence[fx.Node]) -> str:
        tensor, _ = next(self.sizes.reads(numbers[0]))
        reader = self._last_reader(numbers[0])
        return (
            f"cannot cut at {name!r}: a cut must pass one tensor on, and here a number crosses too, the size or type "
            f"of {self._describe(tensor)}, used in {reader}. Read it off the tensor that it is used with (h.size(2) "
            "instead of x.size(2)), or write x.flatten(1) in the place of x.view(x.size(0), -1)."
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

    def _ends_activated(self, op: Operation) -> bool:
        """Whether a layer of the user's own, such as a norm with its activation, ends with the activation."""
        module = self._module(op)
        return module is not None and ends_activated(module)

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


def ends_activated(module: nn.Module) -> bool:
    """Whether a subclass of a layer of torch.nn, or an opaque module, ends with an activation in its own forward."""
    if type(module).forward.__module__.startswith("torch."):
        return isinstance(module, ACTIVATIONS)
    try:
        plan = TracedNetwork(module, evaluation_trace(module))
    except InputError:
        return False
    return plan.after_activation(plan.length)
