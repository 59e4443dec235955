"""Oracle: a clock that ticks (`simulate_helpers`), and every possible order of tiny cases."""

import itertools
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulate_helpers import PIPELINES, Operation, blocks, orders, tick, tick_block_local

from blocklocal.simulate import BlockCosts, Link, StepSpan, simulate, timeline

quick = settings(deadline=None, max_examples=40)
whole = st.integers(1, 4)


@st.composite
def unequal_machines(draw):
    """(devices, micro-batches, [F, B, W] of every chunk, transfer, latency); two chunks per device."""
    p = draw(st.integers(1, 3))
    m = p * draw(st.integers(1, 2))
    passes = draw(st.lists(st.tuples(whole, whole, whole), min_size=2 * p, max_size=2 * p))
    return p, m, passes, draw(st.integers(0, 3)), draw(st.integers(0, 3))


@pytest.mark.parametrize("schedule", PIPELINES)
@quick
@given(machine=unequal_machines())
def test_every_start_is_that_of_the_ticking_clock(schedule, machine):
    """Whole seconds, blocks that differ, links that take time: the same orders give the same starts."""
    p, m, passes, transfer, latency = machine
    chunks = 2 * p if schedule in ("interleaved", "zb-v") else p
    size = float(transfer * m)
    costs = [BlockCosts(F * m, B * m, W * m, forward_bytes=size, backward_bytes=size) for F, B, W in passes[:chunks]]
    spans = timeline(schedule, costs, p, m, link=Link(1.0, latency))
    seconds = {(s.letter, s.chunk): round(s.end - s.start) for s in spans}
    ticked = tick(orders(spans), seconds, transfer, latency)
    assert ticked is not None
    for span in spans:
        assert span.start == pytest.approx(ticked[span.letter, span.chunk, span.micro])


@quick
@given(
    shares=st.lists(st.tuples(whole, whole), min_size=1, max_size=4),
    transfer=st.integers(0, 4),
    latency=st.integers(0, 6),
    depth=st.integers(1, 3),
)
def test_block_local_keeps_the_pace_of_the_ticking_clock(shares, transfer, latency, depth):
    costs = [BlockCosts(head, tail / 2, tail / 2, forward_bytes=transfer) for head, tail in shares]
    result = simulate("block-local", costs, len(costs), link=Link(1.0, latency), depth=depth)
    ends = tick_block_local([h for h, _ in shares], [t for _, t in shares], transfer, latency, depth, 84)
    assert result.step_seconds == pytest.approx((ends[83] - ends[23]) / 60)
    hops = sum(head + transfer + latency for head, _ in shares[:-1])
    assert result.fill_seconds == pytest.approx(hops)


# --- memory


def peak_of(spans: list[StepSpan], costs: list[BlockCosts], m: int, latency: float) -> float:
    """Bytes alive between any two events, added up from when each part is made to when it is dropped."""
    by = {(s.letter, s.chunk, s.micro): s for s in spans}
    alive: list[tuple[int, float, float, float]] = []  # device, from, until, bytes
    for (letter, chunk, micro), span in by.items():
        block = costs[chunk]
        if letter == "F":
            until_b = by["B", chunk, micro].end
            until_w = by.get(("W", chunk, micro), by["B", chunk, micro]).end
            alive.append((span.device, span.start, until_b, (block.activation_bytes - block.kept_for_weight) / m))
            alive.append((span.device, span.start, until_w, block.kept_for_weight / m))
        receiver = by.get((letter, chunk + (1 if letter == "F" else -1), micro)) if letter != "W" else None
        if receiver is not None and receiver.device != span.device:
            size = block.forward_bytes if letter == "F" else costs[chunk - 1].backward_bytes
            alive.append((receiver.device, span.end + latency, receiver.start, size / m))
    times = sorted({round(t, 6) for _, start, end, _ in alive for t in (start, end)})
    middles = [(a + b) / 2 for a, b in pairwise(times)]
    devices = {span.device for span in spans}
    return max(sum(x for d, a, b, x in alive if d == device and a < t < b) for device in devices for t in middles)


@pytest.mark.parametrize("schedule", PIPELINES)
@settings(deadline=None, max_examples=15)
@given(machine=unequal_machines(), data=st.data())
def test_peak_memory_is_the_sum_of_all_that_is_alive(schedule, machine, data):
    """Activations from F until B or W, messages from their arrival until they are taken; whole bytes that differ."""
    p, m, passes, _, latency = machine
    chunks = 2 * p if schedule in ("interleaved", "zb-v") else p
    sizes = data.draw(st.lists(st.tuples(*[st.integers(0, 9)] * 4), min_size=chunks, max_size=chunks))
    costs = [
        BlockCosts(
            *(passed * m for passed in passes[k]),
            activation_bytes=float(kept + until_w),
            weight_bytes=float(until_w),
            forward_bytes=float(forward),
            backward_bytes=float(backward),
        )
        for k, (kept, until_w, forward, backward) in enumerate(sizes)
    ]
    link = Link(latency=latency)
    result = simulate(schedule, costs, p, m, link=link)
    wanted = peak_of(timeline(schedule, costs, p, m, link=link), costs, m, latency)
    assert result.activation_bytes == pytest.approx(wanted)


def test_a_message_that_is_taken_as_it_arrives_is_never_in_memory():
    """Times that floating point cannot hold: what is late by rounding only has not waited."""
    costs = blocks(4, 7, 0.1, 0.1, 0.1, message=1.0)
    assert simulate("gpipe", costs, 4, 7).activation_bytes == 0


# --- every order of tiny cases


def in_order(letters: str, chunk: int, m: int) -> Iterator[list[Operation]]:
    """Every order of m × `letters` with each letter's micro-batches in order and no letter before the one it needs."""

    def extend(done: tuple[int, ...], order: list[Operation]) -> Iterator[list[Operation]]:
        if len(order) == m * len(letters):
            yield order
        for i, letter in enumerate(letters):
            if done[i] < m and (i == 0 or done[i] < done[i - 1]):
                step = (*done[:i], done[i] + 1, *done[i + 1 :])
                yield from extend(step, [*order, (letter, chunk, done[i])])

    return extend((0,) * len(letters), [])


def in_flight(order: list[Operation], until: str) -> int:
    """Most micro-batches that have passed F and not yet `until`."""
    alive = itertools.accumulate({"F": 1, until: -1}.get(letter, 0) for letter, _, _ in order)
    return max(alive)


def fastest(candidates: list[list[list[Operation]]], seconds: dict[str, int], flush: bool) -> int:
    """The shortest step over all combinations of the devices' orders."""
    best = 10**6
    table = {(letter, chunk): time for letter, time in seconds.items() for chunk in range(len(candidates))}
    for combination in itertools.product(*candidates):
        starts = tick(dict(enumerate(combination)), table)
        if starts is not None:
            ends = [starts[own[-1]] + seconds[own[-1][0]] for own in combination]
            begins = [0 if flush else starts[own[0]] for own in combination]
            best = min(best, max(end - begin for end, begin in zip(ends, begins, strict=True)))
    return best


@pytest.mark.parametrize(("p", "m"), [(2, 2), (2, 3), (2, 4), (3, 2), (3, 3)])
@pytest.mark.parametrize(("F", "B"), [(1, 2), (2, 1)])
def test_no_order_of_whole_backward_passes_beats_gpipe_and_1f1b(p, m, F, B):
    best = fastest([list(in_order("FB", d, m)) for d in range(p)], {"F": F, "B": B}, flush=True)
    for schedule in ("gpipe", "1f1b"):
        assert simulate(schedule, blocks(p, m, F, B / 2, B / 2), p, m).step_seconds == pytest.approx(best)


@pytest.mark.parametrize(("m", "times"), [(2, (1, 1, 1)), (3, (1, 1, 1)), (3, (2, 3, 1)), (3, (3, 2, 2))])
def test_no_order_within_the_memory_of_1f1b_beats_zb_h1(m, times):
    """Two devices: at most two micro-batches between F and W on either."""
    F, B, W = times
    candidates = [[order for order in in_order("FBW", d, m) if in_flight(order, "W") <= 2] for d in range(2)]
    best = fastest(candidates, {"F": F, "B": B, "W": W}, flush=True)
    assert simulate("zb-h1", blocks(2, m, F, B, W), 2, m).step_seconds == pytest.approx(best)


def test_within_the_memory_of_1f1b_zero_bubble_is_out_of_reach_without_a_v():
    """So that ZB-H2's third micro-batch in flight, or ZB-V's second chunk, is what buys it."""
    passes = {"F": 1, "B": 1, "W": 1}
    free = [list(in_order("FBW", d, 3)) for d in range(2)]
    bound = [[order for order in own if in_flight(order, "W") <= 2] for own in free]
    assert fastest(free, passes, flush=False) == 9
    assert fastest(bound, passes, flush=False) > 9
    assert simulate("zb-h2", blocks(2, 3), 2, 3).step_seconds == pytest.approx(9)
