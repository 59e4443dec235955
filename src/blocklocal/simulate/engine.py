"""The event engine: runs any order of operations as early as its messages, its device and its links allow.

Every round, each device runs its next operation if what that waits for is known; so a round is one numpy operation
over all devices, and there are about as many rounds as a device has operations.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from blocklocal._common.errors import InputError
from blocklocal.simulate.costs import BlockCosts, Link
from blocklocal.simulate.orders import NOTHING, Codes, Kind, MicroBatches

F, B, W, BOTH = Kind
# What an operation waits for: the forward message, the gradient of its output, or its own B.
WAITS_FOR = np.array([F, B, W, B])
TO_NEXT, TO_PREVIOUS, STAYS = range(3)


@dataclass(frozen=True)
class WorkPlan:
    """What is to be run.

    Attributes:
        orders: [devices, operations].
        seconds: of an operation, [kind, chunk].
        transfer: seconds that its message occupies the link, [kind, chunk].
        latency: seconds that the message is under way afterwards, [kind, chunk].
        link: of its device, the one that the message takes, [kind, chunk].
    """

    batch: MicroBatches
    devices: tuple[int, ...]
    orders: Codes
    seconds: NDArray[np.float64]
    transfer: NDArray[np.float64]
    latency: NDArray[np.float64]
    link: NDArray[np.int64]


@dataclass(frozen=True)
class EventLog:
    """What has run.

    Attributes:
        starts: of every operation, [devices, operations].
        forward_arrivals, gradient_arrivals: when forward messages and gradients reached the chunk that needs them,
            [chunk, micro-batch] (0 where the data set is the sender).
    """

    plan: WorkPlan
    starts: NDArray[np.float64]
    forward_arrivals: NDArray[np.float64]
    gradient_arrivals: NDArray[np.float64]

    def ends(self, device: int) -> NDArray[np.float64]:
        """The end of every operation of a device, [operations]."""
        kind, chunk, _ = self.plan.batch.decode(self.plan.orders[device])
        return self.starts[device] + self.plan.seconds[kind, chunk]


def make_plan(
    chunks: Sequence[Sequence[BlockCosts]],
    devices: int,
    micro_batches: int,
    order: Callable[[int, int, MicroBatches], Codes],
    place: Callable[[int, int], int],
    link: Link,
) -> WorkPlan:
    """Costs, placement and links as tables.

    Args:
        chunks: the blocks of every chunk, first to last.
    """
    batch = MicroBatches(micro_batches, len(chunks))
    homes = [place(chunk, devices) for chunk in range(len(chunks))]
    shape = (len(Kind), len(chunks))
    plan = WorkPlan(
        batch,
        tuple(homes),
        np.stack([order(device, devices, batch) for device in range(devices)]),
        np.array([[pass_seconds(blocks, kind, micro_batches) for blocks in chunks] for kind in Kind]),
        np.zeros(shape),
        np.zeros(shape),
        np.full(shape, STAYS),
    )
    for chunk in range(len(chunks) - 1):
        boundary = chunks[chunk][-1]
        _connect(plan, F, chunk, homes[chunk + 1], boundary.forward_bytes / micro_batches, devices, link)
        for kind in (B, BOTH):
            _connect(plan, kind, chunk + 1, homes[chunk], boundary.backward_bytes / micro_batches, devices, link)
    return plan


def pass_seconds(blocks: Sequence[BlockCosts], kind: Kind, micro_batches: int) -> float:
    """Seconds of one operation on one micro-batch.

    Raises:
        InputError: they are negative, because an overhead was measured for fewer micro-batches.
    """
    if kind is Kind.BACKWARD:
        return sum(pass_seconds(blocks, part, micro_batches) for part in (Kind.INPUT, Kind.WEIGHT))
    name = {Kind.FORWARD: "forward", Kind.INPUT: "backward_input", Kind.WEIGHT: "backward_weight"}[kind]
    seconds = 0.0
    for block in blocks:
        whole, overhead = getattr(block, name), getattr(block, f"{name}_overhead")
        seconds += overhead + (whole - overhead) / micro_batches
    if seconds < 0:
        raise InputError(
            f"a {name} pass of 1/{micro_batches} of the batch would take {seconds:g} s: its overhead is negative and "
            "holds for fewer micro-batches only. Measure with as many micro-batches as are simulated."
        )
    return seconds


def _connect(plan: WorkPlan, kind: Kind, chunk: int, target: int, size: float, devices: int, link: Link) -> None:
    """The message that an operation of `chunk` sends to device `target`; one that stays on its device costs nothing."""
    source = plan.devices[chunk]
    if source == target:
        return
    plan.transfer[kind, chunk] = size / link.bandwidth
    plan.latency[kind, chunk] = link.latency
    plan.link[kind, chunk] = TO_NEXT if target == (source + 1) % devices else TO_PREVIOUS


def execute(plan: WorkPlan) -> EventLog:
    """Run a plan. Asserts that its order can be kept (a schedule that waits for itself is our mistake)."""
    devices, chunks = len(plan.orders), plan.batch.chunks
    rounds = _Rounds(plan)
    waiting = np.arange(devices)
    while waiting.size:
        rounds.run(waiting)
        waiting = np.flatnonzero(rounds.next < rounds.end)
    arrivals = rounds.ready.reshape(3, -1, chunks).transpose(0, 2, 1)
    return EventLog(plan, rounds.starts.reshape(plan.orders.shape), arrivals[F], arrivals[B])


class _Rounds:
    """How far every device is. All tables are flat, which numpy reads several times as fast as rows and columns.

    next, end:  [device], places in orders and starts
    ready:      [F, B or W; micro-batch; chunk], when that can start, once known
    seconds, …: [chunk; kind]
    """

    def __init__(self, plan: WorkPlan):
        devices, operations = plan.orders.shape
        chunks, self.size = plan.batch.chunks, plan.batch.micro_batches * plan.batch.chunks
        self.orders, self.starts = plan.orders.ravel(), np.zeros(plan.orders.size)
        self.next = np.arange(devices) * operations
        self.end = self.next + operations
        self.free, self.link_free = np.zeros(devices), np.zeros(devices * 3)
        self.ready = np.full(3 * self.size, np.inf)
        self.ready[: self.size : chunks] = 0.0  # data
        tables = plan.seconds, plan.transfer, plan.latency, plan.link, _targets(chunks, self.size)
        self.seconds, self.transfer, self.latency, self.link, self.target = (table.T.ravel() for table in tables)

    def run(self, device: NDArray[np.int64]) -> None:
        """The next operation of each of these devices, where what it waits for is known."""
        place = self.next[device]
        code = self.orders[place]
        known = self.ready[WAITS_FOR[code % len(Kind)] * self.size + code // len(Kind)]
        can = known < np.inf
        assert can.any(), "the order of operations waits for itself"
        device, place, code = device[can], place[can], code[can]
        start = np.maximum(self.free[device], known[can])
        end = start + self.seconds[code % len(self.seconds)]
        self.starts[place], self.free[device], self.next[device] = start, end, place + 1
        own = code % len(Kind) == B
        self.ready[W * self.size + code[own] // len(Kind)] = end[own]
        self._send(device, code, end)

    def _send(self, device: NDArray, code: NDArray, end: NDArray) -> None:
        """The messages of operations that have ended: each link carries one at a time."""
        some = self.target[code % len(self.target)] != NOTHING
        device, code, end = device[some], code[some], end[some]
        key = code % len(self.target)
        line = device * 3 + self.link[key]
        gone = np.maximum(end, self.link_free[line]) + self.transfer[key]
        self.link_free[line] = gone
        self.ready[self.target[key] + code // len(Kind)] = gone + self.latency[key]


def _targets(chunks: int, size: int) -> NDArray[np.int64]:
    """What the message of an operation makes ready, [kind, chunk], as a distance in `_Rounds.ready` from its own F.

    The last chunk's forward pass makes its own B ready: the loss is there.
    """
    target = np.full((len(Kind), chunks), NOTHING)
    target[F, :-1] = F * size + 1
    target[F, -1] = B * size
    for kind in (B, BOTH):
        target[kind, 1:] = B * size - 1
    return target
