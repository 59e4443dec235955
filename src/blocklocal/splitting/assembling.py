"""From what was found on the tape to a block: which modules are its own, which are hollow, and what it hands on."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from blocklocal.splitting.blanks import Blank, Shapes, stand_in
from blocklocal.splitting.calls import named_inputs
from blocklocal.splitting.copying import copy_module
from blocklocal.splitting.crossing import Crossing, leaves
from blocklocal.splitting.hollow import Hollow, Incoming, Reply, shell
from blocklocal.splitting.running_block import Cut, RunningBlock, Taken
from blocklocal.splitting.tape import Call, Leaf

if TYPE_CHECKING:
    from blocklocal.splitting.running import RunningNetwork

MASKS = {
    "attention_mask": False, "mask": False,
    "padding_mask": True, "key_padding_mask": True, "src_key_padding_mask": True,
}  # fmt: skip
"""Inputs that tell real positions from padding, and whether they are true at padding."""


class Assembler:
    """Builds the block between two positions of a plan."""

    def __init__(self, plan: "RunningNetwork", start: int, stop: int):
        self.plan, self.start, self.stop = plan, start, stop
        self.low = plan.time(start) if start else 0
        self.high = plan.time(stop)
        self.given = Incoming()
        self.crossing: Crossing | None = plan.crossing(start) if start else None
        calls = plan.tape.calls
        self.hollow = {id(calls[i]) for i in self.crossing.hollow} if self.crossing else set()
        self.again = {id(calls[i]) for i in self.crossing.again} if self.crossing else set()
        self.calls: dict[str, list[Call]] = {}
        for call in calls:
            self.calls.setdefault(call.path, []).append(call)
        self.read = self._weights_read()

    def block(self) -> RunningBlock:
        plan = self.plan
        start = self._cut(self.start) if self.start else None
        end = self._cut(self.stop) if self.stop < plan.length else None
        taken, last = {}, None
        if end is not None:
            made = plan.ended[self.stop - 1]
            last = Taken(made.path, self._number(made), 0)
            for place in (end.hidden, *end.beside.values()):
                source = self._taken(place)
                if source is not None:
                    taken[place] = source
        self.sent = self._sent()
        network = self._build("", plan.model)
        masks = [cut.mask for cut in (start, end) if cut is not None and cut.mask is not None]
        dtype = named_inputs(plan.form)[masks[0]].dtype if masks else None
        return RunningBlock(network, self.given, self._form(), start, end, taken, last, plan.extra, dtype)

    def _form(self) -> Any:
        x = self.plan.form
        if isinstance(x, Tensor):
            return torch.empty(0)
        names = named_inputs(x)
        return dict.fromkeys(names) if isinstance(x, dict) else tuple(names)

    def _weights_read(self) -> set[str]:
        """Names of the weights that are read in this block."""
        plan = self.plan
        read = set(self.crossing.weights) if self.crossing else set()
        for operation in plan.tape.operations:
            if self.low < operation.time <= self.high:
                sources = (plan.tape.values[v].source for v in operation.reads)
                read.update(source.partition(" ")[2] for source in sources if source.startswith("weight "))
        return read

    # --- what crosses

    def _shapes(self, position: int) -> Shapes:
        plan = self.plan
        leaf = plan.hidden(position)
        made = plan.ended[position - 1]
        assert leaf is not None
        return leaf.shape, plan.twin(made).leaves[made.leaves.index(leaf)].shape

    def _cut(self, position: int) -> Cut:
        plan, crossing = self.plan, self.plan.crossing(position)
        hidden = plan.hidden(position)
        assert hidden is not None
        shapes = self._shapes(position)
        beside = {self._name(place): place for place in crossing.carried if place != hidden.place}
        mask = self._mask(shapes)
        inputs = named_inputs(plan.form)
        cross = [n for n in inputs if (n in crossing.inputs or "mask" in n) and isinstance(inputs[n], Tensor)]
        named = tuple(name for name in cross if name != mask)
        other = self._other_inputs()
        blanks = {
            name: Blank.of((tuple(t.shape), other[name]), t.dtype, shapes) if isinstance(t, Tensor) else t
            for name, t in inputs.items()
            if name not in named and name != mask
        }
        time = plan.time(position)
        places = (hidden.place, *beside.values())
        copies = any(plan.analysis.overwritten(place, time) for place in places)
        return Cut(hidden.place, beside, named, mask, MASKS.get(mask or "", False), copies, blanks)

    def _other_inputs(self) -> dict[str, tuple[int, ...]]:
        return self.plan.other_shapes

    def _name(self, place: int) -> str:
        return self.plan.maker(place).path

    def _mask(self, hidden: Shapes) -> str | None:
        """The input that tells real positions of the hidden state from padding."""
        inputs, other = named_inputs(self.plan.form), self.plan.other_shapes
        for name in inputs:
            t = inputs[name]
            if name in MASKS and isinstance(t, Tensor) and t.dim() == 2 and not t.is_floating_point():
                same = all(
                    len(h) == 3 and tuple(s) == h[:2] for s, h in zip((t.shape, other[name]), hidden, strict=True)
                )
                if same:
                    return name
        return None

    def _taken(self, place: int) -> Taken | None:
        """The call of this block that gives a tensor; None where it has come in."""
        over = [c for c in self.plan.ended if self.low < c.leave <= self.high]
        stop = self.plan.crossing(self.stop)
        outer = [self.plan.tape.calls[i] for i in stop.hollow]
        for call in reversed([c for c in over if any(c is o for o in outer)]):
            for i, leaf in enumerate(call.leaves):
                if isinstance(leaf, Leaf) and leaf.place == place:
                    return Taken(call.path, self._number(call), i)
        return None

    def _number(self, call: Call) -> int:
        """Which of the calls of the module it is that happen in this block's run."""
        happen = self.hollow | self.again
        here = [c for c in self.calls[call.path] if c.leave > self.low or id(c) in happen]
        return next(i for i, c in enumerate(here) if c is call)

    def _sent(self) -> dict[int, Leaf]:
        """By storage, the tensor that the incoming message holds."""
        if self.crossing is None:
            return {}
        hidden, sent = self.plan.hidden(self.start), {}
        assert hidden is not None
        outer = [self.plan.tape.calls[i] for i in self.crossing.hollow]
        for place in self.crossing.carried:
            of = [leaf for c in sorted(outer, key=lambda c: c.leave) for leaf in leaves(c) if leaf.place == place]
            sent[place] = hidden if place == hidden.place else of[-1]
        return sent

    # --- the modules

    def _build(self, path: str, module: nn.Module) -> nn.Module:
        calls = self.calls.get(path, [])
        hollow = [c for c in calls if id(c) in self.hollow]
        inside = [c for c in calls if (c.enter > self.low and c.leave <= self.high) or id(c) in self.again]
        if hollow:
            real = copy_module(module) if inside and not any(True for _ in module.parameters()) else None
            return self._hollow(path, module, hollow, real if real is not None else (module if inside else None))
        if path and inside and len(inside) == len([c for c in calls if c.enter <= self.high and not self._hidden(c)]):
            again = self.start and not any(True for _ in module.parameters())
            return copy_module(module) if again and any(True for _ in module.buffers()) else module
        children = {
            name: None if child is None else self._build(f"{path}.{name}" if path else name, child)
            for name, child in module._modules.items()
        }
        own = {n for n, p in module._parameters.items() if p is not None and self._reads(path, n)}
        if path and not calls and not self._runs_below(path):
            lacks = any(True for _ in module.parameters()) and not any(
                self._reads(path, n) for n, _ in module.named_parameters()
            )
            return Hollow(path, module, self.given, []) if lacks else module
        if path and calls and all(c.enter > self.high or self._hidden(c) for c in calls):
            weights = any(True for _ in module.parameters())
            read = any(self._reads(path, n) for n, _ in module.named_parameters())
            return module if read or not weights else Hollow(path, module, self.given, [])
        whole = path and self.start == 0 and len(own) == len(module._parameters)
        if whole and all(child is module._modules[name] for name, child in children.items()):
            return module
        return shell(module, children, keep=own, first=self.start == 0)

    def _hidden(self, call: Call) -> bool:
        """Whether it ran inside a call that is hollow in this block."""
        return any(id(self.plan.tape.calls[i]) in self.hollow for i in call.parents)

    def _runs_below(self, path: str) -> bool:
        return any(p.startswith(f"{path}.") for p in self.calls)

    def _reads(self, path: str, name: str) -> bool:
        return (f"{path}.{name}" if path else name) in self.read

    def _hollow(self, path: str, module: nn.Module, calls: list[Call], real: nn.Module | None) -> Hollow:
        shapes = self._shapes(self.start)
        replies = []
        for call in calls:
            other = self.plan.twin(call)
            pairs = zip(call.leaves, other.leaves, strict=True)
            replies.append(Reply([stand_in(a, b, self.sent, shapes) for a, b in pairs], call.form))
        return Hollow(path, module, self.given, replies, real)
