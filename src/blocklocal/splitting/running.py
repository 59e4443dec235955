"""A network cut by running it: for whatever torch.fx cannot trace, and for inputs that are no single tensor.

Every block runs the network's own forward, Python and all. What lies before the block is *hollow* there: modules
without weights that give what the message holds, and blanks for the rest (`hollow`). Behind its last module the block
stops the forward and hands on what is read later (`crossing`). So masks, positions, sizes and decisions are made as the
network makes them, for every batch anew, and no part of the forward has to be understood.

Two runs on the example tell what is called when (`tape`), and which sizes are those of the batch. A cut lies behind one
layer, an element of a `ModuleList` or `Sequential`, and there one value may cross that depends on weights: the hidden
state. What depends on none is made again in every block, or crosses with the hidden state. With `carry`, any number of
values may cross, such as the skip connections of a U-Net.
"""

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from blocklocal._common.errors import InputError, first_line
from blocklocal._common.message import lead, map_message
from blocklocal._common.seeds import seeded
from blocklocal.splitting.assembling import Assembler
from blocklocal.splitting.calls import described, named_inputs
from blocklocal.splitting.crossing import Analysis, Crossing, leaves
from blocklocal.splitting.layers import NORMS
from blocklocal.splitting.tape import Call, Leaf, Tape, tape
from blocklocal.splitting.undisturbed import undisturbed

_LISTS = (nn.ModuleList, nn.Sequential, nn.ModuleDict)
_ACTIVATIONS = frozenset("relu gelu silu elu leaky_relu hardtanh hardswish sigmoid tanh mish softplus".split())  # noqa: SIM905
_SAMPLES = 2


class RunningNetwork:
    """A plan to cut a network; a position is a call's place in the order in which calls end, from 1.

    Args:
        example: a batch as the network takes it.
        extra: further arguments of the network, at every call.
        carry: whether a cut may lie where several values cross.

    Raises:
        InputError: the network does not run on the example.
    """

    def __init__(self, model: nn.Module, example: Any, extra: Mapping[str, Any], *, carry: bool = False):
        self.model, self.carry, self.extra = model, carry, dict(extra)
        self.modules = dict(model.named_modules())
        self.form = map_message(lambda t: t[:_SAMPLES] if t.dim() else t, example)
        self.tape, self.other = self._tapes(self.form)
        self.weighted = {path for path, m in self.modules.items() if any(True for _ in m.parameters())}
        self.analysis = Analysis(self.tape, set(self.modules) - self.weighted)
        self.learning = [s.time for s in self.tape.operations if any(map(self._is_weight, s.reads))]
        self.ended = sorted((c for c in self.tape.calls), key=lambda c: c.leave)
        self.length = len(self.ended) + 1
        self._crossings: dict[int, Crossing] = {}

    def about(self) -> str:
        """Why some layers are not to be cut apart."""
        reasons = [(self.ended[p - 1].path, self.trouble(p)) for p in list(self._layers())[:40]]
        told = [f" Behind {path!r}: {reason}." for path, reason in reasons if reason]
        return "".join(told[:2])

    @cached_property
    def piece_starts(self) -> list[int]:
        """Behind the elements of lists of modules; without two of those, behind every module with weights."""
        lists = self._apart([p for p in self._layers() if self._is_outer(p)])
        return lists if len(lists) > 1 else self.all_starts

    @cached_property
    def all_starts(self) -> list[int]:
        """Everywhere."""
        made = enumerate(self.ended, 1)
        return self._apart([p for p, c in made if c.path in self.weighted and c.path and not self._norm_follows(c)])

    def _apart(self, positions: list[int]) -> list[int]:
        """Of these positions, those that may be cut at, with something to learn between every two."""
        found, last = [0], 0
        for position in positions:
            time = self.time(position)
            learns = any(last < t <= time for t in self.learning)
            if learns and self._goes_on(position, positions) and not self.trouble(position):
                found.append(position)
                last = time
        return found

    def _goes_on(self, position: int, positions: list[int]) -> bool:
        """Whether another of these layers begins behind it."""
        time = self.time(position)
        return any(self.ended[p - 1].enter > time for p in positions if p > position)

    def crossing(self, position: int) -> Crossing:
        if position not in self._crossings:
            self._crossings[position] = self.analysis.crossing(self.time(position))
        return self._crossings[position]

    def locate(self, name: str) -> int | None:
        """Where the named submodule is first called.

        Raises:
            InputError: the forward never calls it, or the network cannot be cut there.
        """
        path = next(known for known, other in self.modules.items() if other is self.model.get_submodule(name))
        first = next((c for c in self.tape.calls if f"{c.path}.".startswith(f"{path}.")), None)
        if first is None:
            called = [c.path for c in self.tape.calls if c.path and c.path.count(".") < 3]
            raise InputError(
                f"cannot cut at {name!r}: the forward never calls it by itself. Name a module that the forward calls: "
                f"{', '.join(list(dict.fromkeys(called))[:20])}."
            )
        reason = "nothing has run before it"
        for position, made in reversed(list(enumerate(self.ended, 1))):
            if made.leave > first.enter:
                continue
            if any(
                made.leave < s.time < first.enter and any(map(self._is_weight, s.reads)) for s in self.tape.operations
            ):
                break
            trouble = self.trouble(position)
            if not trouble:
                return position
            reason = trouble
        if not any(c.leave < first.enter and c.leave >= 0 and c.leaves for c in self.tape.calls):
            return 0
        raise InputError(f"cannot cut at {name!r}: {reason}.{self._advice()}")

    def trouble(self, position: int) -> str:
        """Why the network cannot be cut there; empty where it can."""
        made, crossing = self.ended[position - 1], self.crossing(position)
        shared = self._shared(position)
        if shared:
            return (
                f"the weight {shared!r} is used on both sides, and a block's weights are its own (for a model of "
                "transformers whose head shares the embedding: tie_word_embeddings=False in its config, before it is "
                "built)"
            )
        again = self._open_twice(made)
        if again:
            return f"it lies inside {again!r}, which is called several times"
        if crossing.lost:
            return f"{crossing.lost[0]!r} keeps a value that is read later"
        hidden = self.hidden(position)
        if hidden is None:
            return f"what {made.path!r} gives is not read later as it is, [B, …]"
        several = [place for place in crossing.carried if self.analysis.learned(place)]
        if len(several) > 1 and not self.carry:
            names = ", ".join(repr(self.maker(place).path) for place in several)
            return f"{len(several)} values cross that depend on weights, those of {names}; carry=True hands on all"
        return ""

    def _shared(self, position: int) -> str | None:
        """A weight that both sides of the cut use."""
        time = self.time(position)
        first, then = set[str](self.crossing(position).weights), set[str]()
        before = set[str]()
        for operation in self.tape.operations:
            read = {self.tape.values[v].source for v in operation.reads if self._is_weight(v)}
            (before if operation.time <= time else then).update(name.partition(" ")[2] for name in read)
        return next(iter(sorted(before & (then | first))), None)

    def _open_twice(self, made: Call) -> str | None:
        """A module whose forward the cut would divide, and which has other calls too."""
        opened = [self.tape.calls[i].path for i in made.parents]
        return next((path for path in opened if sum(c.path == path for c in self.tape.calls) > 1), None)

    def hidden(self, position: int) -> Leaf | None:
        """Of the tensors that the call before the cut gives, the first that crosses."""
        made, carried = self.ended[position - 1], self.crossing(position).carried
        other = self.twin(made)
        for leaf, twin in zip(made.leaves, other.leaves, strict=True):
            if isinstance(leaf, Leaf) and leaf.place in carried and leaf.dtype.is_floating_point:
                return leaf if len(leaf.shape) > 1 and leaf.shape[0] != twin.shape[0] else None
        return None

    def maker(self, place: int) -> Call:
        """The first call that gave the tensor."""
        return next(c for c in self.ended if any(leaf.place == place for leaf in leaves(c)))

    def label(self, start: int, stop: int) -> str:
        """The names of the first and the last layer in it."""
        low, high = self.time(start) if start else 0, self.time(stop)
        inside = [c.path for c in self.tape.calls if low < c.enter and c.leave <= high and self._is_layer(c.path)]
        if not inside:
            inside = [c.path for c in self.tape.calls if low < c.enter <= high and c.path][:1] or [""]
        outer = [p for p in inside if not any(p.startswith(f"{q}.") for q in inside)]
        return outer[0] if outer[0] == outer[-1] else f"{outer[0]}–{outer[-1]}"

    def after_activation(self, position: int) -> bool:
        hidden = self.hidden(position)
        values = [v for v in self.tape.values if hidden and v.place == hidden.place and v.born <= self.time(position)]
        if not values or values[-1].operation is None:
            return False
        return self.tape.operations[values[-1].operation].name.split(".")[1].rstrip("_") in _ACTIVATIONS

    def build(self, start: int, stop: int) -> nn.Module:
        return Assembler(self, start, stop).block()

    def time(self, position: int) -> int:
        return self.ended[position - 1].leave if 0 < position < self.length else self.ended[-1].leave + 1

    def _is_weight(self, v: int) -> bool:
        return self.tape.values[v].source.startswith("weight")

    def _is_layer(self, path: str) -> bool:
        parent = self.modules.get(path.rpartition(".")[0])
        return isinstance(parent, _LISTS) and path in self.weighted

    def _is_outer(self, position: int) -> bool:
        """No part of a layer of the user's own: the convolutions of a residual block are none of the network's."""
        path = self.ended[position - 1].path
        plain = isinstance(self.modules[path], nn.Sequential) or not any(True for _ in self.modules[path].children())
        if not plain:
            return True
        parts = path.split(".")
        around = (".".join(parts[:i]) for i in range(1, len(parts)))
        return not any(self._is_layer(p) and not isinstance(self.modules[p], _LISTS) for p in around)

    def _layers(self) -> Iterator[int]:
        """Behind each element of a list of modules; behind its norm where one follows."""
        for position, made in enumerate(self.ended, 1):
            if self._is_layer(made.path) and not self._norm_follows(made):
                yield position

    def _norm_follows(self, made: Call) -> bool:
        """Whether a norm of torch.nn comes behind a convolution or the like, and so belongs to it."""
        follows = next((c.path for c in self.tape.calls if c.enter > made.leave), None)
        leaf = not any(True for _ in self.modules[made.path].children())
        return leaf and follows is not None and isinstance(self.modules[follows], NORMS)

    def twin(self, made: Call) -> Call:
        return self.other.calls[self.tape.calls.index(made)]

    def _advice(self) -> str:
        known = [self.label(start, self.length).split("–")[0] for start in self.piece_starts[1:5]]
        return f" Cut where one value passes, for example at {', '.join(known)}." if known else ""

    def _tapes(self, x: Any) -> tuple[Tape, Tape]:
        """Of the example, and of another number of samples (and of shorter sequences, where it takes them)."""
        model, kind = self.model, type(self.model).__name__
        with undisturbed(model), seeded("running"):
            for part in model.modules():
                part.training = True
            try:
                first = tape(model, x, self.extra)
            except Exception as reason:  # the user's own forward
                raise InputError(f"{kind} cannot run on the example of {described(x)}: {_said(reason)}.") from reason
            reason = None
            for other in (_shorter(_larger(x)), _larger(x)):
                try:
                    second = tape(model, other, self.extra)
                except Exception as error:  # such as a sequence of fixed length
                    reason = error
                    continue
                if [c.path for c in first.calls] == [c.path for c in second.calls]:
                    self.other_shapes = {n: tuple(t.shape) for n, t in named_inputs(other).items() if _is_tensor(t)}
                    return first, second
        raise InputError(
            f"{kind} does other things for another number of samples, so it cannot be cut: "
            f"{_said(reason) if reason else 'it calls other modules'}."
        )


def _is_tensor(t: Any) -> bool:
    return isinstance(t, Tensor)


def _larger(x: Any) -> Any:
    """One sample more, in all tensors that have as many as the first."""
    first = lead(x)
    return map_message(lambda t: torch.cat([t, t[:1]]) if t.dim() and len(t) == len(first) else t, x)


def _shorter(x: Any) -> Any:
    """Sequences of integers, and what goes with them position by position, without the last position."""
    lengths = {t.shape[1] for t in named_inputs(x).values() if _is_sequence(t)}
    if len(lengths) != 1 or lengths == {1}:
        return x
    return map_message(lambda t: t[:, :-1] if t.dim() > 1 and {t.shape[1]} == lengths else t, x)


def _is_sequence(t: Any) -> bool:
    return isinstance(t, Tensor) and t.dim() == 2 and not t.is_floating_point() and t.dtype is not torch.bool


def _said(reason: Exception) -> str:
    return f"{type(reason).__name__}: {first_line(reason)}"
