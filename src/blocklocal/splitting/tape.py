"""One real run of a network, written down: which module is called when, and which operation reads and writes what.

Values are told apart by the memory that holds them (the storage of a tensor) and by how often it was written: a view
is the value that it is a view of, and an operation in place makes a new one.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from blocklocal.splitting.calls import call_with, named_inputs


@dataclass
class Value:
    """What one storage holds between two writes.

    Attributes:
        place: the number of its storage.
        operation: the operation that wrote it, an index into `Tape.operations`; None: it was there before.
        learned: whether it depends on a weight.
        source: "input NAME" or "weight NAME" of what was there before.
        born: when.
    """

    place: int
    operation: int | None
    learned: bool
    source: str
    born: int


@dataclass
class Operation:
    """An operation.

    Attributes:
        calls: those that it happens in, outermost first.
        decides: whether it gives no tensor, but a number to Python.
        writes_in_place: numbers of storages.
    """

    time: int
    name: str
    reads: tuple[int, ...]
    calls: tuple[int, ...]
    decides: bool
    writes_in_place: tuple[int, ...] = ()


@dataclass(frozen=True)
class Leaf:
    """A tensor that a call gives.

    Attributes:
        place: the number of its storage.
        whole: whether it shows its storage plainly, from the start, so that it may be reshaped to another such.
    """

    place: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    whole: bool

    @property
    def size(self) -> int:
        return torch.Size(self.shape).numel()


@dataclass
class Call:
    """A call of a module.

    Attributes:
        number: of this call among those of the same module, from 0.
        parents: the calls that it happens in, outermost first.
        leave: when it ends; -1 while it runs.
        leaves: what it gives, flat: `Leaf`, or what is no tensor.
        form: how to put them together again.
    """

    path: str
    number: int
    parents: tuple[int, ...]
    enter: int
    leave: int = -1
    leaves: list[Any] = field(default_factory=list)
    form: Any = None


@dataclass
class Tape:
    """All calls in the order in which they began, all operations in the order in which they ran.

    Attributes:
        results: the values in the network's output.
    """

    calls: list[Call] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)
    results: list[int] = field(default_factory=list)


class _Writer(TorchDispatchMode):
    """Writes a tape. All tensors of the run stay alive meanwhile, so that memory is never used twice."""

    def __init__(self, tape: Tape) -> None:
        super().__init__()
        self.tape, self.time = tape, 0
        self.open: list[int] = []
        self.counts: dict[str, int] = {}
        self._places: dict[int, tuple[int, Any]] = {}  # address of a storage → its number, and the storage itself
        self._now: dict[int, int] = {}  # number of a storage → the value that it holds

    def tick(self) -> int:
        self.time += 1
        return self.time

    def place(self, tensor: Tensor) -> int | None:
        try:
            storage = tensor.untyped_storage()
        except (NotImplementedError, RuntimeError):  # a sparse tensor and the like
            return None
        return self._places.setdefault(storage._cdata, (len(self._places), storage))[0]

    def begin(self, tensor: Tensor, source: str, *, learned: bool) -> None:
        place = self.place(tensor)
        if place is not None and place not in self._now:
            self._add(Value(place, None, learned, source, self.time))

    def value(self, tensor: Tensor) -> int | None:
        place = self.place(tensor)
        if place is None:
            return None
        return self._now[place] if place in self._now else self._add(Value(place, None, False, "", self.time))

    def _add(self, value: Value) -> int:
        self.tape.values.append(value)
        self._now[value.place] = len(self.tape.values) - 1
        return self._now[value.place]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = _tensors((args, kwargs))
        reads = [v for v in map(self.value, given) if v is not None]
        output = func(*args, **(kwargs or {}))
        made = _tensors(output)
        known = {self.tape.values[v].place for v in reads}
        written = {self.place(t) for t in _written(func, args, kwargs or {})} - {None}
        fresh = [p for p in dict.fromkeys(map(self.place, made)) if p is not None and p not in known]
        operation = Operation(self.tick(), str(func), tuple(reads), tuple(self.open), not made, tuple(written))  # type: ignore
        if made and not written and not fresh:
            return output  # a view
        self.tape.operations.append(operation)
        learned = any(self.tape.values[v].learned for v in reads)
        for place in (*written, *fresh):
            self._add(Value(place, len(self.tape.operations) - 1, learned, "", operation.time))  # type: ignore[arg-type]
        return output

    def entered(self, path: str) -> None:
        number = self.counts.get(path, 0)
        self.counts[path] = number + 1
        self.tape.calls.append(Call(path, number, tuple(self.open), self.tick()))
        self.open.append(len(self.tape.calls) - 1)

    def left(self, output: Any) -> None:
        done = self.tape.calls[self.open.pop()]
        leaves, done.form = pytree.tree_flatten(output)
        done.leaves = [self._leaf(leaf) for leaf in leaves]
        done.leave = self.tick()

    def _leaf(self, leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        value = self.value(leaf)
        place = -1 if value is None else self.tape.values[value].place
        whole = leaf.layout is torch.strided and leaf.is_contiguous() and leaf.storage_offset() == 0
        return Leaf(place, tuple(leaf.shape), leaf.dtype, whole)


def tape(model: nn.Module, x: Any, extra: Mapping[str, Any]) -> Tape:
    """Run the model on x, in the mode it is in, and write down what happens. Whatever the forward raises is raised."""
    found = Tape()
    writer = _Writer(found)
    for name, parameter in model.named_parameters():
        writer.begin(parameter, f"weight {name}", learned=True)
    for name, tensor in named_inputs(x).items():
        if isinstance(tensor, Tensor):
            writer.begin(tensor, f"input {name}", learned=False)
    with torch.no_grad(), _hooked(model, writer), writer:
        output = call_with(model, x, extra)
    found.results = [v for v in map(writer.value, _tensors(output)) if v is not None]
    return found


@contextmanager
def _hooked(model: nn.Module, writer: _Writer) -> Generator[None]:
    handles = []
    try:
        for path, module in model.named_modules():
            if not isinstance(module, torch.jit.ScriptModule):
                handles.append(module.register_forward_pre_hook(_before(writer, path)))
                handles.append(module.register_forward_hook(lambda _, __, output: writer.left(output)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _before(writer: _Writer, path: str) -> Callable[[nn.Module, Any], None]:
    return lambda _, __: writer.entered(path)


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]


def _written(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """The tensors that an operation changes in place."""
    arguments = func._schema.arguments
    given = [*zip(arguments, args, strict=False), *((a, kwargs[a.name]) for a in arguments if a.name in kwargs)]
    return [t for a, value in given if a.alias_info is not None and a.alias_info.is_write for t in _tensors(value)]
