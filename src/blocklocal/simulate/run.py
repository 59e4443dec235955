"""One schedule on one machine: `simulate` for its figures, `timeline` for what runs when."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from blocklocal._common.errors import InputError
from blocklocal._common.ranges import check_range
from blocklocal.simulate.block_local import LocalTrace, run_block_local
from blocklocal.simulate.costs import CHUNKS, DEVICES, MICRO_BATCHES, QUEUE, BlockCosts, Link, group
from blocklocal.simulate.engine import STAYS, EventLog, execute, make_plan
from blocklocal.simulate.memory import peak_bytes
from blocklocal.simulate.orders import Kind
from blocklocal.simulate.schedules import SCHEDULES, Schedule

LETTERS = {Kind.FORWARD: "F", Kind.INPUT: "B", Kind.WEIGHT: "W", Kind.BACKWARD: "B"}
MEASURED_STEPS = 24
MOST_PASSES = 2**18  # of one device, in each direction: seconds
MOST_OPERATIONS = 2**24  # of all devices: a gigabyte
SHORTEST = 1e-15  # seconds of a step: below, batches per second are no number to show


@dataclass(frozen=True)
class Result:
    """What a schedule does with one batch after the other.

    Attributes:
        step_seconds: from one batch to the next. With a flush, from the first operation of a step to the last update;
            without, the longest that a device is at a step, as its next one follows (Qi et al. 2023); for block-local,
            the steady interval between the batches that leave the last device.
        idle_share: 1 − (mean over the devices of the seconds they work per batch) / step_seconds.
        activation_bytes: most bytes of activations and waiting messages at a time, of the device with most.
        wire_bytes: bytes that cross a link per batch, both directions together.
        fill_seconds: block-local: until the last device starts its first batch, once; None for the others, which fill
            and drain in every step (step_seconds contain that).
    """

    schedule: str
    devices: int
    micro_batches: int
    step_seconds: float
    idle_share: float
    activation_bytes: float
    wire_bytes: float
    fill_seconds: float | None = None

    @property
    def batches_per_second(self) -> float:
        return 1 / self.step_seconds

    @property
    def idle_seconds(self) -> float:
        """Seconds per batch in which a device waits, mean over the devices."""
        return self.step_seconds * self.idle_share


@dataclass(frozen=True)
class StepSpan:
    """One operation of a device.

    Attributes:
        letter: F, B, W or (block-local) L.
        micro: the number of its micro-batch (block-local: of its batch).
    """

    device: int
    letter: str
    chunk: int
    micro: int
    start: float
    end: float


def simulate(
    schedule: str,
    costs: Sequence[BlockCosts],
    devices: int,
    micro_batches: int | None = None,
    *,
    link: Link | None = None,
    chunks: int = 2,
    depth: int = 2,
    flush: bool | None = None,
) -> Result:
    """Throughput, idle share, memory and traffic of one schedule.

        simulate("1f1b", uniform_costs(4), devices=4, micro_batches=8).idle_share      # 3 / 11

    Args:
        schedule: one of `SCHEDULES.names()`.
        costs: of every block, for the whole batch; neighbouring blocks are spread over devices and chunks by their time
            in a step (block-local: in a local step).
        devices: how many.
        micro_batches: parts that a batch is cut into (default 4 per device); block-local does not cut it.
        link: of every device with each of its neighbours, one in each direction (default: takes no time).
        chunks: per device, for "interleaved".
        depth: of block-local's queues, in messages.
        flush: whether all devices wait for each other after a step; default: what the schedule needs (`Schedule`).

    Raises:
        InputError: the schedule is unknown, there are more devices (times chunks) than blocks, or counts do not fit.
    """
    chosen, link = SCHEDULES.get(schedule), link or Link()
    check_range("devices", devices, DEVICES)
    if chosen.order is None:
        check_range("depth", depth, QUEUE)
        return _block_local(chosen, _shares(costs, devices), link, depth)
    parts = _parts(chosen, costs, devices, chunks)
    m = _micro_batches(chosen, devices, micro_batches)
    _check_work(chosen.name, devices, m * len(parts) // devices, "micro-batches or chunks")
    trace = execute(make_plan(parts, devices, m, chosen.order, chosen.place, link))
    return _pipeline(chosen, trace, parts, chosen.flush if flush is None else flush)


def timeline(
    schedule: str,
    costs: Sequence[BlockCosts],
    devices: int,
    micro_batches: int | None = None,
    *,
    link: Link | None = None,
    chunks: int = 2,
    depth: int = 2,
) -> list[StepSpan]:
    """Every operation of one step (block-local: of as many steps as devices, and three more), as `simulate` runs it."""
    chosen, link = SCHEDULES.get(schedule), link or Link()
    check_range("devices", devices, DEVICES)
    if chosen.order is None:
        check_range("depth", depth, QUEUE)
        shares = _shares(costs, devices)
        return _local_spans(run_block_local(shares, link, depth, devices + 3), shares)
    m = _micro_batches(chosen, devices, micro_batches)
    parts = _parts(chosen, costs, devices, chunks)
    _check_work(chosen.name, devices, m * len(parts) // devices, "micro-batches or chunks")
    return _spans(execute(make_plan(parts, devices, m, chosen.order, chosen.place, link)))


def _parts(chosen: Schedule, costs: Sequence[BlockCosts], devices: int, chunks: int) -> list[list[BlockCosts]]:
    check_range("chunks", chunks, CHUNKS)
    per_device = chosen.chunks or chunks
    if devices * per_device > len(costs):
        each = "" if per_device == 1 else f" with {per_device} chunks each"
        raise InputError(
            f"{chosen.name} on {devices} devices{each} needs at least {devices * per_device} blocks, not {len(costs)}: "
            "cut the network into more blocks, or take fewer devices."
        )
    return group(costs, devices * per_device, [block.backprop_step for block in costs])


def _check_work(name: str, devices: int, passes: int, fewer: str) -> None:
    """What is simulated operation by operation must have an end, and room."""
    if passes > MOST_PASSES or devices * passes > MOST_OPERATIONS:
        raise InputError(
            f"{name} on {devices} devices with {passes:,} passes each takes too long to simulate (at most "
            f"{MOST_PASSES:,} each, {MOST_OPERATIONS:,} in all): give fewer devices, {fewer}."
        )


def _shares(costs: Sequence[BlockCosts], devices: int) -> list[list[BlockCosts]]:
    return group(costs, devices, [block.local_step for block in costs])


def _micro_batches(chosen: Schedule, devices: int, given: int | None) -> int:
    if given is None:
        return 4 * devices
    check_range("micro_batches", given, MICRO_BATCHES)
    if chosen.chunks is None and given % devices:
        raise InputError(
            f"{chosen.name} takes its micro-batches in turns of {devices}, one per device, and {given} are not a "
            f"multiple of that: give {-(-given // devices) * devices}."
        )
    return given


def _pipeline(chosen: Schedule, trace: EventLog, parts: Sequence[Sequence[BlockCosts]], flush: bool) -> Result:
    plan, devices = trace.plan, len(trace.starts)
    updates = np.zeros(devices)
    for chunk, blocks in enumerate(parts):
        updates[plan.devices[chunk]] += sum(block.update for block in blocks)
    ends, work = updates.copy(), updates.copy()
    for device, starts in enumerate(trace.starts):
        own = trace.ends(device)
        ends[device] += own[-1]
        work[device] += (own - starts).sum()
    step = (ends if flush else ends - trace.starts[:, 0]).max()
    crossing = plan.link != STAYS
    wire = sum(
        parts[c][-1].forward_bytes * crossing[Kind.FORWARD, c]
        + parts[c][-1].backward_bytes * crossing[Kind.BACKWARD, c + 1]
        for c in range(len(parts) - 1)
    )
    memory = max(peak_bytes(trace, parts))
    return _result(chosen.name, devices, plan.batch.micro_batches, step, work.mean(), memory, wire, None)


def _block_local(chosen: Schedule, shares: Sequence[Sequence[BlockCosts]], link: Link, depth: int) -> Result:
    devices = len(shares)
    measured = depth * -(-MEASURED_STEPS // depth)  # what a full queue lets through repeats after `depth` steps
    warm_up = 2 * devices + 4 * depth
    _check_work(chosen.name, devices, warm_up + measured, "places in the queue")
    trace = run_block_local(shares, link, depth, warm_up + measured)
    step = (trace.ends[-1, -1] - trace.ends[-1, -1 - measured]) / measured
    work = sum(block.local_step for share in shares for block in share) / devices
    memory = 0.0
    for device, share in enumerate(shares):
        queue = trace.waiting(device) * shares[device - 1][-1].forward_bytes if device else 0.0
        memory = max(memory, queue + max(block.kept_in_step for block in share))
    wire = sum(share[-1].forward_bytes for share in shares[:-1])
    return _result(chosen.name, devices, 1, step, work, memory, wire, trace.taken[-1, 0])


def _result(
    name: str, devices: int, m: int, step: float, work: float, memory: float, wire: float, fill: float | None
) -> Result:
    if step <= 0:
        raise InputError("all costs are 0: give the seconds of at least one pass.")
    if step < SHORTEST:
        raise InputError(f"a step takes {step:g} s, less than can be told apart: give costs in seconds.")
    idle = max(0.0, float(1 - work / step))  # below 0 by rounding only
    return Result(name, devices, m, float(step), idle, memory, float(wire), None if fill is None else float(fill))


def _spans(trace: EventLog) -> list[StepSpan]:
    spans = []
    for device, starts in enumerate(trace.starts):
        decoded = zip(*trace.plan.batch.decode(trace.plan.orders[device]), strict=True)
        for (kind, chunk, micro), start, end in zip(decoded, starts, trace.ends(device), strict=True):
            spans.append(StepSpan(device, LETTERS[Kind(kind)], int(chunk), int(micro), float(start), float(end)))
    return spans


def _local_spans(trace: LocalTrace, shares: Sequence[Sequence[BlockCosts]]) -> list[StepSpan]:
    spans = []
    for device, share in enumerate(shares):
        first = sum(len(each) for each in shares[:device])
        for step, (now, sent) in enumerate(zip(trace.taken[device], trace.sent[device], strict=True)):
            for position, block in enumerate(share):
                at_last = position + 1 == len(share)
                forward = StepSpan(device, "F", first + position, step, float(now), float(now + block.forward))
                learns = sent if at_last else forward.end
                now = float(learns + block.after_forward)
                spans += [forward, StepSpan(device, "L", first + position, step, float(learns), now)]
    return spans
