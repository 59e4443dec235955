"""A block that runs the network's own forward, from one cut to the next."""

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from blocklocal._common.errors import InputError
from blocklocal._common.message import Forward, Message
from blocklocal.splitting.blanks import Blank
from blocklocal.splitting.calls import call_with, like_inputs, named_inputs, one_tensor
from blocklocal.splitting.hollow import Incoming


@dataclass(frozen=True)
class Taken:
    """A tensor that a block takes for its message: leaf `leaf` of call `number` of the module at `path`."""

    path: str
    number: int
    leaf: int


@dataclass(frozen=True)
class Cut:
    """What crosses one cut.

    Attributes:
        hidden: number of its storage.
        beside: by name, numbers of storages.
        inputs: the network's inputs whose values cross.
        mask: the input that says which positions are real, where the message's own mask carries it.
        padding: whether that input is true at padding instead.
        copies: whether what comes in is copied, because the block works on it in place.
        blanks: by name, what stands for the other inputs.
    """

    hidden: int
    beside: Mapping[str, int] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()
    mask: str | None = None
    padding: bool = False
    copies: bool = False
    blanks: Mapping[str, Any] = field(default_factory=dict)


class _Reached(BaseException):
    """The end of the block: no error, and no user's `except Exception` may catch it."""


class RunningBlock(nn.Module):
    """From `start` (None: the beginning) to `end` (None: the network's output).

    Args:
        network: the network as this block sees it.
        given: what its hollow modules read.
        form: an input like those that the network takes, of names only.
        taken: by storage, what this block makes of what `end` asks for; the rest has come in.
        last: the call behind which the block ends.
        extra: further arguments of the network.
    """

    def __init__(
        self,
        network: nn.Module,
        given: Incoming,
        form: Any,
        start: Cut | None,
        end: Cut | None,
        taken: Mapping[int, Taken],
        last: Taken | None,
        extra: Mapping[str, Any],
        mask_dtype: torch.dtype | None = None,
    ):
        super().__init__()
        self.network = network
        self._given, self._form, self._start, self._end = given, form, start, end
        self._taken, self._last, self._extra, self._mask_dtype = dict(taken), last, dict(extra), mask_dtype

    def forward(self, x: Any) -> Forward:
        """A message, or the network's input for the first block; gives a message, or the network's output."""
        given, start = self._given, self._start
        given.clear()
        inputs = named_inputs(x) if start is None else self._receive(start, x)
        try:
            whole = x if start is None else like_inputs(self._form, inputs)
            with self._watched(given.values):
                output = call_with(self.network, whole, self._extra)
            if self._end is not None:
                assert self._last is not None
                raise InputError(
                    f"the forward came to its end and never called {self._last.path!r}, behind which the network is "
                    "cut; on the example it did. Cut it elsewhere."
                )
            return one_tensor(output, type(self.network).__name__)
        except _Reached:
            assert self._end is not None
            return self._send(self._end, inputs, given.values)
        finally:
            given.clear()

    def _receive(self, start: Cut, message: Forward) -> dict[str, Any]:
        """Put what came in where the hollow modules find it, and give the network's inputs, blanks among them."""
        whole = message if isinstance(message, Message) else Message(message)
        hidden = whole.hidden.clone() if start.copies else whole.hidden
        given = self._given
        given.hidden, given.values[start.hidden] = hidden, hidden
        for name, place in start.beside.items():
            given.values[place] = whole.beside[name].clone() if start.copies else whole.beside[name]
        inputs = dict(start.blanks)
        for name, blank in start.blanks.items():
            inputs[name] = blank.make(hidden) if isinstance(blank, Blank) else blank
        inputs.update({name: whole.beside[name] for name in start.inputs})
        if start.mask is not None:
            assert whole.mask is not None
            assert self._mask_dtype is not None
            inputs[start.mask] = (~whole.mask if start.padding else whole.mask).to(self._mask_dtype)
        return inputs

    def _send(self, end: Cut, inputs: Mapping[str, Any], values: Mapping[int, Tensor]) -> Forward:
        beside = {name: values[place] for name, place in end.beside.items()}
        beside.update({name: inputs[name] for name in end.inputs})
        mask = None
        if end.mask is not None:
            mask = inputs[end.mask] != 0
            mask = ~mask if end.padding else mask
        hidden = values[end.hidden]
        return Message(hidden, beside, mask) if beside or mask is not None else hidden

    @contextmanager
    def _watched(self, values: dict[int, Tensor]) -> Generator[None]:
        """Hooks that note what crosses the end of the block, and end it."""
        wanted: dict[str, list[tuple[int, Taken]]] = {}
        for place, taken in self._taken.items():
            wanted.setdefault(taken.path, []).append((place, taken))
        last = self._last
        if last is not None:
            wanted.setdefault(last.path, [])
        handles = []
        try:
            for path, here in wanted.items():
                module = self.network.get_submodule(path)
                ends = last.number if last is not None and last.path == path else None
                handles.append(module.register_forward_hook(_note(here, values, ends)))
            yield
        finally:
            for handle in handles:
                handle.remove()


def _note(here: list[tuple[int, Taken]], values: dict[int, Tensor], ends: int | None) -> Callable[..., None]:
    count = -1

    def note(module: nn.Module, args: Any, output: Any) -> None:
        nonlocal count
        count += 1
        leaves = pytree.tree_leaves(output)
        for place, taken in here:
            if taken.number == count:
                values[place] = leaves[taken.leaf]
        if count == ends:
            raise _Reached

    return note
