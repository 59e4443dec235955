"""Messages between two neighbouring processes: in order, received ahead into buffers made before, in bounded number.

Forward messages travel in two process groups: a header (which message, and whether another one follows) and its bytes.
Whoever receives knows from the labels how large the next batches are, so it posts receives ahead, up to `depth`;
whoever sends waits when `depth` messages are under way. So a slow block holds the ones before it up, and none runs out
of memory.

The memory of a receive is that of the first message of its kind. Where another one has other shapes (sequences of
another length), as much of it as fits travels there, and the rest behind the header.

    sender   outbox.expect(sizes)  outbox.send(a) …        outbox.finish(END)
    receiver inbox.expect(sizes)   inbox.peek() take() …
"""

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

from blocklocal._common.dense import dense, flat
from blocklocal._common.errors import InputError
from blocklocal._common.message import Forward, hidden_of, map_message
from blocklocal.parallel.layout import MessageLayout, empty
from blocklocal.parallel.processes import POLL_SECONDS, Edge, Processes
from blocklocal.parallel.wire import begin, wait

MESSAGE, STOP, END = 0, 1, 2  # what a header says
Timed = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True)
class Header:
    """What goes before a forward message.

    Attributes:
        kind: MESSAGE, or that none follows (STOP: the user stopped; END).
        number: of the message, from 0.
        layout: the number of its layout; -1 for that of its kind.
        losses: the latest known losses of all blocks before (NaN where there is none yet), for the console.
    """

    kind: int
    number: int
    losses: Sequence[float]
    layout: int = -1

    def pack(self) -> Tensor:
        return torch.tensor([self.kind, self.number, self.layout, *self.losses], dtype=torch.float64)

    @classmethod
    def unpack(cls, values: Tensor) -> "Header":
        kind, number, layout, *losses = values.tolist()
        if kind not in (MESSAGE, STOP, END) or not (float(number).is_integer() and float(layout).is_integer()):
            raise no_message()
        return cls(int(kind), int(number), losses, int(layout))


def no_message() -> InputError:
    return InputError("what came from the process before is no message of this run, or not the next one.")


Kind = tuple[bool, int]  # of a message: training or evaluation, batch size


def other_key(edge: Edge, number: int) -> str:
    return f"layout/{edge.source}/other/{number}"


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
        self._layouts: dict[Kind, MessageLayout] = {}
        self._others: dict[MessageLayout, int] = {}
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

    def send(self, a: Forward) -> None:
        """Pass a forward message on; waits (in the context `full`) while `depth` of them are under way."""
        size, given = self._sizes.popleft(), len(hidden_of(a))
        assert size == given, f"a message for {given} samples where {size} were announced"
        a = map_message(dense, a)
        kind, layout = (self._training, size), MessageLayout.of(a)
        known = self._layouts.setdefault(kind, layout)
        if known is layout:
            self.edge.store.set(layout_key(self.edge, kind), known.written())
        if len(self._under_way) >= self.depth:
            with self.full():
                self._await_oldest()
        if known != layout and known.like(layout):
            a, layout = _laid_out(a, known), known
        if known == layout:
            self._post(Header(MESSAGE, self._number, self.losses), layout.pack(a))
        else:
            self._post_other(known, layout, layout.pack(a))
        self._number += 1

    def finish(self, kind: int) -> None:
        """Tell the receiver that no message follows (STOP or END), and wait until all are sent."""
        packed = Header(kind, self._number, self.losses).pack()
        self._under_way.append(([self._isend(packed, self.edge.control)], [packed]))
        while self._under_way:
            self._await_oldest()

    def _post(self, header: Header, data: Tensor, rest: Tensor | None = None) -> None:
        packed = header.pack()
        works, tensors = [self._isend(packed, self.edge.control), self._isend(data, self.edge.data)], [packed, data]
        if rest is not None:
            works.append(self._isend(rest, self.edge.control))
            tensors.append(rest)
        self._under_way.append((works, tensors))

    def _post_other(self, known: MessageLayout, layout: MessageLayout, packed: Tensor) -> None:
        """A message of another layout than the first of its kind, for whose size a receive is posted."""
        number = self._others.setdefault(layout, len(self._others))
        if number == len(self._others) - 1:
            self.edge.store.set(other_key(self.edge, number), layout.written())
        room = known.places[-1]
        data = packed.new_zeros(room)
        data[: len(packed)] = packed[:room]
        rest = packed[room:].cpu() if len(packed) > room else None
        self._post(Header(MESSAGE, self._number, self.losses, number), data, rest)

    def _isend(self, tensor: Tensor, group: Any) -> Any:
        return begin(dist.isend, tensor, self.edge.target, group)

    def _await_oldest(self) -> None:
        works, tensors = self._under_way[0]
        for work, tensor in zip(works, tensors, strict=True):
            wait(work, self.edge.target, self._timeout, tensor)
        self._under_way.popleft()


def _laid_out(a: Forward, known: MessageLayout) -> Forward:
    """The message with the strides of another one, in memory of its own."""
    parts = iter(known.parts)
    return map_message(lambda t: empty(next(parts), t.device).copy_(t), a)


class Inbox:
    """Receives forward messages from the stage before."""

    def __init__(self, processes: Processes, edge: Edge, depth: int, device: torch.device, blocks: int):
        self.edge, self.depth, self.device, self._timeout = edge, depth, device, processes.message_timeout
        self.losses: Sequence[float] = [nan] * blocks
        self._training = True
        self._sizes: deque[int] = deque()
        self._posted: deque[tuple[Kind, Tensor, Any]] = deque()
        self._free: dict[Kind, list[Tensor]] = {}
        self._layouts: dict[Kind, MessageLayout] = {}
        self._others: dict[int, MessageLayout] = {}
        self._used: tuple[Kind, Tensor] | None = None
        self._values = torch.empty(3 + blocks, dtype=torch.float64)
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

    def take(self) -> Forward:
        """The next forward message. The buffer of one of one tensor is used again after the next `take`."""
        header = self.peek()
        if (header.kind, header.number) != (MESSAGE, self._number):
            raise no_message()
        if self._used is not None:
            kind, buffer = self._used
            self._free.setdefault(kind, []).append(buffer)
        self._post_ahead()
        kind, buffer, work = self._posted.popleft()
        wait(work, self.edge.source, self._timeout, buffer)
        message = self._message(header, self._layouts[kind], buffer)
        self._used, self._header = (kind, buffer), None
        self._number += 1
        self._listen()
        return message

    def holds(self, a: Tensor) -> bool:
        """Whether a tensor lies in the buffer of the message taken last."""
        return self._used is not None and a.untyped_storage().data_ptr() == self._used[1].untyped_storage().data_ptr()

    def _message(self, header: Header, known: MessageLayout, buffer: Tensor) -> Forward:
        """What has arrived in a buffer, and behind the header."""
        if header.layout < 0:
            return buffer if known.names is None else known.unpack(buffer)
        layout = self._others.get(header.layout)
        if layout is None:
            layout = self._others[header.layout] = MessageLayout.read(
                self.edge.store.get(other_key(self.edge, header.layout))
            )
        packed, size = flat(buffer), layout.places[-1]
        if size > len(packed):
            rest = torch.empty(size - len(packed), dtype=torch.uint8)
            wait(self._irecv(rest, self.edge.control), self.edge.source, self._timeout)
            packed = torch.cat([packed, rest.to(packed.device)])
        return layout.unpack(packed)

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
        self._layouts[kind] = MessageLayout.read(self.edge.store.get(key))
        return True

    def _irecv(self, tensor: Tensor, group: Any) -> Any:
        return begin(dist.irecv, tensor, self.edge.source, group)
