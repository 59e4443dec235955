"""Machines for the simulator's tests, and a second simulator: a clock that ticks, in whole numbers."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from blocklocal.simulate import BlockCosts, StepSpan

PIPELINES = ("gpipe", "1f1b", "interleaved", "zb-h1", "zb-h2", "zb-v")
Operation = tuple[str, int, int]  # letter, chunk, micro-batch


def blocks(
    count: int, m: int, F: float = 1, B: float = 1, W: float = 1, message: float = 0, **others: float
) -> list[BlockCosts]:
    """`count` equal blocks; F, B, W and `message` are those of one of m micro-batches."""
    size = {"forward_bytes": message * m, "backward_bytes": message * m}
    return [BlockCosts(F * m, B * m, W * m, **size, **others)] * count


def orders(spans: Iterable[StepSpan]) -> dict[int, list[Operation]]:
    """Device → its operations in the order of time."""
    found: dict[int, list[Operation]] = defaultdict(list)
    for span in sorted(spans, key=lambda span: span.start):
        found[span.device].append((span.letter, span.chunk, span.micro))
    return dict(found)


def tick(
    order: Mapping[int, Sequence[Operation]],
    seconds: Mapping[tuple[str, int], int],
    transfer: int = 0,
    latency: int = 0,
    limit: int = 10_000,
) -> dict[Operation, int] | None:
    """The start of every operation on a clock of whole seconds; None where the order waits for itself.

    order: device → operations. seconds: (letter, chunk) → duration, at least 1. A message takes `transfer` seconds of
    the link between its two devices, which carries one at a time, and `latency` more. Nothing is computed ahead: every
    tick, what has ended is delivered, and what can start starts.
    """
    home = {chunk: device for device, own in order.items() for _, chunk, _ in own}
    last = max(home)
    todo = {device: list(own) for device, own in order.items()}
    running: dict[int, tuple[int, Operation]] = {}  # device → (end, operation)
    lines: dict[tuple[int, int], list[Operation]] = defaultdict(list)  # waiting for a link
    on_line: dict[tuple[int, int], tuple[int, Operation]] = {}  # link → (end, what its message makes ready)
    under_way: list[tuple[int, Operation]] = []
    ready: set[Operation] = {op for own in order.values() for op in own if op[:2] == ("F", 0)}
    starts: dict[Operation, int] = {}

    def send(now: int, source: int, wanted: Operation) -> None:
        target = home[wanted[1]]
        if target == source or transfer == 0:
            under_way.append((now + (0 if target == source else latency), wanted))
        else:
            lines[source, target].append(wanted)

    for now in range(limit):
        for device, (end, (letter, chunk, micro)) in list(running.items()):
            if end == now:
                del running[device]
                if letter == "F":
                    send(now, device, ("F", chunk + 1, micro) if chunk < last else ("B", chunk, micro))
                if letter == "B":
                    ready.add(("W", chunk, micro))
                    if chunk > 0:
                        send(now, device, ("B", chunk - 1, micro))
        for line in list(lines):
            if line in on_line and on_line[line][0] == now:
                under_way.append((now + latency, on_line.pop(line)[1]))
            if lines[line] and line not in on_line:
                on_line[line] = (now + transfer, lines[line].pop(0))
        ready |= {wanted for arrives, wanted in under_way if arrives <= now}
        under_way = [each for each in under_way if each[0] > now]
        for device, own in todo.items():
            if own and device not in running and own[0] in ready:
                operation = own.pop(0)
                starts[operation] = now
                running[device] = (now + seconds[operation[:2]], operation)
        if not any(todo.values()):
            return starts
        if not running and not under_way and not on_line:
            return None
    return None


def tick_block_local(
    head: Sequence[int], tail: Sequence[int], transfer: int, latency: int, depth: int, steps: int
) -> list[int]:
    """The end of every step on the last device: device d computes head[d], sends, then computes tail[d].

    A message occupies one of `depth` places of the receiver's queue from when its sending starts until it is taken.
    """
    count = len(head)
    begun, done = [0] * count, [0] * count
    state: list[tuple[str, int]] = [("idle", 0)] * count  # what a device does, and until when
    queue: list[list[int]] = [[] for _ in range(count)]  # arrival times of the messages for each device
    link_free = [0] * count
    ends: list[int] = []
    now = 0
    while len(ends) < steps:
        changed = True
        while changed:
            changed = False
            for d in range(count):
                doing, until = state[d]
                if doing == "tail" and until == now:
                    state[d], done[d], changed = ("idle", 0), done[d] + 1, True
                    if d + 1 == count:
                        ends.append(now)
                elif doing == "idle" and begun[d] < steps and (d == 0 or (queue[d] and queue[d][0] <= now)):
                    if d:
                        queue[d].pop(0)
                    state[d], begun[d], changed = ("head", now + head[d]), begun[d] + 1, True
                elif doing == "head" and until <= now and (d + 1 == count or len(queue[d + 1]) < depth):
                    if d + 1 < count:
                        link_free[d] = max(now, link_free[d]) + transfer
                        queue[d + 1].append(link_free[d] + latency)
                    state[d], changed = ("tail", now + tail[d]), True
        now += 1
    return ends
