"""Messages between two neighbouring processes: in order, received ahead into buffers made before, in bounded number.

Forward messages travel in two process groups: a header (which message, and whether another one follows) and the tensor.
Whoever receives knows from the labels how large the next batches are, so it posts receives ahead, up to `depth`;
whoever sends waits when `depth` messages are under way. So a slow block holds the ones before it up, and none runs out
of memory.

    sender   outbox.expect(sizes)  outbox.send(a) …        outbox.finish(END)
    receiver inbox.expect(sizes)   inbox.peek() take() …
"""

import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from math import nan
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from blocklocal._common.errors import InputError
from blocklocal.parallel.processes import POLL_SECONDS, Edge, Processes
from blocklocal.parallel.store import decode
from blocklocal.parallel.wire import begin, wait

MESSAGE, STOP, END = 0, 1, 2  # what a header says
Timed = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True)
class Header:
    """What goes before a forward message.

    Attributes:
        kind: MESSAGE, or that none follows (STOP: the user stopped; END).
        number: of the message, from 0.
        losses: the latest known losses of all blocks before (NaN where there is none yet), for the console.
    """

    kind: int
    number: int
    losses: Sequence[float]

    def pack(self) -> Tensor:
        return torch.tensor([self.kind, self.number, *self.losses], dtype=torch.float64)

    @classmethod
    def unpack(cls, values: Tensor) -> "Header":
        kind, number, *losses = values.tolist()
        if kind not in (MESSAGE, STOP, END) or not float(number).is_integer():
            raise no_message()
        return cls(int(kind), int(number), losses)


def no_message() -> InputError:
    return InputError("what came from the process before is no message of this run, or not the next one.")


@dataclass(frozen=True)
class Layout:
    """Shape, strides and type of a forward message: it arrives laid out in memory as it was made."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: str

    @classmethod
    def of(cls, a: Tensor) -> "Layout":
        return cls(tuple(a.shape), a.stride(), str(a.dtype).removeprefix("torch."))

    def empty(self, device: torch.device) -> Tensor:
        return torch.empty_strided(self.shape, self.stride, dtype=getattr(torch, self.dtype), device=device)


Kind = tuple[bool, int]  # of a message: training or evaluation, batch size


def layout_key(edge: Edge, kind: Kind) -> str:
    return f"layout/{edge.source}/{'training' if kind[0] else 'evaluation'}/{kind[1]}"


class Outbox:
    """Sends forward messages to the next stage.

    Args:
        blocks: how many blocks lie before the next stage (their losses travel with the headers).
    """

    def __init__(self, processes: Processes, edge: Edge, depth: int, blocks: int, full: Timed):
        self.edge, self.depth, self.full = edge, depth, full
        self.losses: Sequence[float] = [nan] * blocks
        self._timeout = processes.message_timeout
        self._layouts: dict[Kind, Layout] = {}
        self._training = True
        self._sizes: deque[int] = deque()
        self._under_way: deque[tuple[list[Any], list[Tensor]]] = deque()
        self._number = 0

    @property
    def open(self) -> bool:
        """Whether announced messages are still to be sent."""
        return bool(self._sizes)

    def expect(self, sizes: Iterable[int], *, training: bool) -> None:
        """The batch sizes of the next messages, of training steps or of an evaluation."""
        assert not self._sizes, "the last stretch of messages is not over"
        self._sizes.extend(sizes)
        self._training = training

    def send(self, a: Tensor) -> None:
        """Pass a forward message on; waits (in the context `full`) while `depth` of them are under way."""
        size = self._sizes.popleft()
        assert size == len(a), f"a message for {len(a)} samples where {size} were announced"
        a = self._laid_out(a if is_dense(a) else a.contiguous())
        if len(self._under_way) >= self.depth:
            with self.full():
                self._await_oldest()
        self._post(Header(MESSAGE, self._number, self.losses), a)
        self._number += 1

    def finish(self, kind: int) -> None:
        """Tell the receiver that no message follows (STOP or END), and wait until all are sent."""
        packed = Header(kind, self._number, self.losses).pack()
        self._under_way.append(([self._isend(packed, self.edge.control)], [packed]))
        while self._under_way:
            self._await_oldest()

    def _laid_out(self, a: Tensor) -> Tensor:
        """The message in the layout that the receiver knows, which is that of the first message of its kind."""
        kind, layout = (self._training, len(a)), Layout.of(a)
        known = self._layouts.setdefault(kind, layout)
        if known is layout:
            self.edge.store.set(layout_key(self.edge, kind), json.dumps([layout.shape, layout.stride, layout.dtype]))
        if known == layout:
            return a
        if (known.shape, known.dtype) != (layout.shape, layout.dtype):
            raise InputError(
                f"the block before process {self.edge.target} gave {layout.dtype} {list(layout.shape)} after "
                f"{known.dtype} {list(known.shape)}: all batches of a size must give messages of one shape and type."
            )
        return known.empty(a.device).copy_(a)

    def _post(self, header: Header, a: Tensor) -> None:
        packed, data = header.pack(), flat(a)
        works = [self._isend(packed, self.edge.control), self._isend(data, self.edge.data)]
        self._under_way.append((works, [packed, data]))

    def _isend(self, tensor: Tensor, group: Any) -> Any:
        return begin(dist.isend, tensor, self.edge.target, group)

    def _await_oldest(self) -> None:
        works, tensors = self._under_way[0]
        for work, tensor in zip(works, tensors, strict=True):
            wait(work, self.edge.target, self._timeout, tensor)
        self._under_way.popleft()


class Inbox:
    """Receives forward messages from the stage before."""

    def __init__(self, processes: Processes, edge: Edge, depth: int, device: torch.device, blocks: int):
        self.edge, self.depth, self.device, self._timeout = edge, depth, device, processes.message_timeout
        self.losses: Sequence[float] = [nan] * blocks
        self._training = True
        self._sizes: deque[int] = deque()
        self._posted: deque[tuple[Kind, Tensor, Any]] = deque()
        self._free: dict[Kind, list[Tensor]] = {}
        self._layouts: dict[Kind, Layout] = {}
        self._used: tuple[Kind, Tensor] | None = None
        self._values = torch.empty(2 + blocks, dtype=torch.float64)
        self._coming: Any = None
        self._header: Header | None = None
        self._number = 0

    @property
    def open(self) -> bool:
        """Whether announced messages are still to come."""
        return bool(self._sizes or self._posted)

    def expect(self, sizes: Iterable[int], *, training: bool) -> None:
        """The batch sizes of the next messages, of training steps or of an evaluation."""
        assert not self.open, "the last stretch of messages is not over"
        self._sizes.extend(sizes)
        self._training = training
        self._listen()

    def peek(self) -> Header:
        """Wait for the next header, without taking its message."""
        if self._header is None:
            self._listen()
            wait(self._coming, self.edge.source, self._timeout)
            self._header, self._coming = Header.unpack(self._values), None
            self.losses = self._header.losses
        return self._header

    def take(self) -> Tensor:
        """The next forward message. Its buffer is used again after the next `take`."""
        header = self.peek()
        if (header.kind, header.number) != (MESSAGE, self._number):
            raise no_message()
        if self._used is not None:
            kind, buffer = self._used
            self._free.setdefault(kind, []).append(buffer)
        self._post_ahead()
        kind, buffer, work = self._posted.popleft()
        wait(work, self.edge.source, self._timeout, buffer)
        self._used, self._header = (kind, buffer), None
        self._number += 1
        self._listen()
        return buffer

    def holds(self, a: Tensor) -> bool:
        """Whether a tensor lies in the buffer of the message taken last."""
        return self._used is not None and a.untyped_storage().data_ptr() == self._used[1].untyped_storage().data_ptr()

    def _listen(self) -> None:
        """Post the receive of the next header."""
        if self._coming is None and self._header is None:
            self._coming = self._irecv(self._values, self.edge.control)

    def _post_ahead(self) -> None:
        """Receives for the next messages, up to `depth`; the layout of the first is known, as its header is there."""
        while self._sizes and len(self._posted) < self.depth:
            kind = self._training, self._sizes[0]
            if kind not in self._layouts and not self._learn(kind, needed=not self._posted):
                return
            spare = self._free.get(kind)
            buffer = spare.pop() if spare else self._layouts[kind].empty(self.device)
            self._posted.append((kind, buffer, self._irecv(flat(buffer), self.edge.data)))
            self._sizes.popleft()

    def _learn(self, kind: Kind, needed: bool) -> bool:
        key = layout_key(self.edge, kind)
        while not self.edge.store.check([key]):
            if not needed:
                return False
            time.sleep(POLL_SECONDS)
        shape, stride, dtype = decode(self.edge.store.get(key), tuple[tuple[int, ...], tuple[int, ...], str])
        if not isinstance(getattr(torch, dtype, None), torch.dtype):
            raise InputError(
                f"the process before sends messages of the type {dtype!r}, which this torch does not have."
            )
        self._layouts[kind] = Layout(shape, stride, dtype)
        return True

    def _irecv(self, tensor: Tensor, group: Any) -> Any:
        return begin(dist.irecv, tensor, self.edge.source, group)


def flat(a: Tensor) -> Tensor:
    """The bytes of a dense tensor in the order of memory."""
    return a.as_strided((a.numel(),), (1,)).view(torch.uint8)


def is_dense(a: Tensor) -> bool:
    """Whether the elements fill their piece of memory, in any order of dimensions."""
    expected = 1
    for stride, size in sorted((stride, size) for size, stride in zip(a.shape, a.stride(), strict=True) if size > 1):
        if stride != expected:
            return False
        expected *= size
    return True
