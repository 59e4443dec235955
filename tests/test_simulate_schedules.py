"""Oracle: what every schedule must keep, whatever its order; and what block-local's lack of a flush implies."""

from collections import Counter, defaultdict
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulate_helpers import PIPELINES, blocks

from blocklocal._common.errors import InputError
from blocklocal.simulate import SCHEDULES, BlockCosts, Link, StepSpan, simulate, timeline, uniform_costs

quick = settings(deadline=None, max_examples=25)
SHAPES = [(1, 1), (1, 3), (2, 2), (2, 6), (3, 3), (4, 8), (5, 10)]
TWO_CHUNKS = ("interleaved", "zb-v")
SPLIT = ("zb-h1", "zb-h2", "zb-v")
LINK = Link(bandwidth=2.0, latency=0.25)


def chunks_of(schedule: str) -> int:
    return 2 if schedule in TWO_CHUNKS else 1


def run(schedule: str, p: int, m: int) -> list[StepSpan]:
    """Chunks that differ, over links that take time."""
    costs = [
        BlockCosts(m * (1 + k % 3), m * (2 - k % 2), m * 0.5, forward_bytes=m, backward_bytes=m / 2) for k in range(10)
    ]
    return timeline(schedule, costs[: p * chunks_of(schedule)], p, m, link=LINK)


@pytest.mark.parametrize(("p", "m"), SHAPES)
@pytest.mark.parametrize("schedule", PIPELINES)
def test_every_chunk_passes_every_micro_batch_exactly_once(schedule, p, m):
    counted = Counter((s.letter, s.chunk, s.micro) for s in run(schedule, p, m))
    letters = "FBW" if schedule in SPLIT else "FB"
    assert counted == {(x, c, i): 1 for x in letters for c in range(p * chunks_of(schedule)) for i in range(m)}


@pytest.mark.parametrize(("p", "m"), SHAPES)
@pytest.mark.parametrize("schedule", PIPELINES)
def test_a_device_does_one_thing_at_a_time_on_chunks_of_its_own(schedule, p, m):
    spans = run(schedule, p, m)
    homes = defaultdict(set)
    for span in spans:
        homes[span.chunk].add(span.device)
    assert all(len(devices) == 1 for devices in homes.values())
    for device in range(p):
        own = sorted((s for s in spans if s.device == device), key=lambda s: s.start)
        assert all(before.end <= after.start + 1e-9 for before, after in pairwise(own))


@pytest.mark.parametrize(("p", "m"), SHAPES)
@pytest.mark.parametrize("schedule", PIPELINES)
def test_nothing_starts_before_what_it_needs_has_arrived(schedule, p, m):
    by = {(s.letter, s.chunk, s.micro): s for s in run(schedule, p, m)}
    last = max(chunk for _, chunk, _ in by)
    for (letter, chunk, micro), span in by.items():
        if letter == "F" and chunk > 0:
            sender, size = by["F", chunk - 1, micro], 1.0
        elif letter == "B" and chunk < last:
            sender, size = by["B", chunk + 1, micro], 0.5
        else:
            sender, size = {"F": None, "B": by["F", chunk, micro], "W": by.get(("B", chunk, micro))}[letter], 0.0
        if sender is None:
            continue
        far = sender.device != span.device
        assert span.start >= sender.end + far * (size / LINK.bandwidth + LINK.latency) - 1e-9
        if letter == "B":
            assert span.start >= by["F", chunk, micro].end - 1e-9


def test_zb_v_turns_on_the_last_device():
    homes = {span.chunk: span.device for span in run("zb-v", 4, 8)}
    assert [homes[chunk] for chunk in range(8)] == [0, 1, 2, 3, 3, 2, 1, 0]


def test_interleaved_chunks_go_round():
    homes = {span.chunk: span.device for span in run("interleaved", 4, 8)}
    assert [homes[chunk] for chunk in range(8)] == [0, 1, 2, 3, 0, 1, 2, 3]


def test_delayed_weight_gradients_come_last_on_the_last_device():
    last = [span.letter for span in sorted(run("zb-h1", 4, 8), key=lambda s: s.start) if span.device == 3]
    assert "".join(last).endswith("BWWWW")


def test_a_thousand_devices_are_simulated_as_exactly_as_a_few():
    result = simulate("1f1b", uniform_costs(1024, 1), 1024, 64)
    assert result.idle_share == pytest.approx(1023 / (64 + 1023))
    assert simulate("block-local", uniform_costs(1024, 1), 1024).idle_share == pytest.approx(0, abs=1e-9)


# --- block-local


@quick
@given(seconds=st.lists(st.floats(0.1, 5), min_size=1, max_size=6), depth=st.integers(1, 3))
def test_block_local_idles_by_the_difference_between_mean_and_slowest_device(seconds, depth):
    costs = [BlockCosts(s / 4, s / 4, s / 4, loss=s / 8, update=s / 8) for s in seconds]
    result = simulate("block-local", costs, len(costs), depth=depth)
    assert result.step_seconds == pytest.approx(max(seconds))
    assert result.idle_share == pytest.approx(1 - sum(seconds) / len(seconds) / max(seconds), abs=1e-9)


@quick
@given(p=st.integers(1, 8), time=st.floats(0.1, 5), latency=st.floats(0, 0.1))
def test_equal_blocks_never_idle_once_the_pipeline_is_full(p, time, latency):
    """A latency below what the queue covers (here 2 messages of a step each) costs nothing but the fill."""
    costs = blocks(p, 1, time, time, time)
    result = simulate("block-local", costs, p, link=Link(latency=latency))
    assert result.idle_share == pytest.approx(0, abs=1e-9)
    assert result.fill_seconds == pytest.approx((p - 1) * (time + latency))


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_a_full_queue_makes_the_sender_wait_and_so_bounds_memory(depth):
    """The second device is ten times as slow: without a bound, messages would pile up for ever."""
    fast, slow = BlockCosts(1, 1, 1, forward_bytes=7.0), BlockCosts(10, 10, 10, activation_bytes=100.0)
    result = simulate("block-local", [fast, slow], 2, depth=depth)
    assert result.activation_bytes == pytest.approx(100 + 7 * depth)
    assert result.step_seconds == pytest.approx(30)
    spans = timeline("block-local", [fast, slow], 2, depth=depth)
    sent = {s.micro: s.start for s in spans if s.device == 0 and s.letter == "L"}
    taken = {s.micro: s.start for s in spans if s.device == 1 and s.letter == "F"}
    assert all(sent[step] >= taken[step - depth] for step in sent if step >= depth)


def test_a_latency_beyond_the_queue_sets_the_pace():
    """depth messages per round trip of a message and its place in the queue."""
    for depth in (1, 2, 4):
        result = simulate("block-local", blocks(2, 1, 0.1, 0.1, 0.1), 2, link=Link(latency=12.0), depth=depth)
        assert result.step_seconds == pytest.approx(12 / depth, rel=0.05)
        assert result.step_seconds >= 12 / depth - 1e-9


def test_blocks_of_one_device_are_in_memory_one_at_a_time():
    costs = [BlockCosts(1, 1, 1, activation_bytes=size, local_bytes=size + 1) for size in (10.0, 40.0, 20.0)]
    assert simulate("block-local", costs, 1).activation_bytes == pytest.approx(41)
    assert simulate("block-local", costs, 1).step_seconds == pytest.approx(9)


def test_a_local_backward_pass_that_is_known_replaces_b_and_w():
    costs = [BlockCosts(1, 5, 5, loss=0.5, local_backward=2.0, update=0.25)]
    assert simulate("block-local", costs, 1).step_seconds == pytest.approx(3.75)
    assert simulate("1f1b", costs, 1, 4).step_seconds == pytest.approx(11.25)


def test_neighbouring_blocks_are_spread_by_the_time_they_take_in_a_step():
    costs = [BlockCosts(1, 1, 1, loss=loss) for loss in (9, 0, 0, 0)]
    homes = {
        schedule: [s.device for s in timeline(schedule, costs, 2, 1) if s.letter == "F" and s.micro == 0]
        for schedule in ("gpipe", "block-local")
    }
    assert homes == {"gpipe": [0, 1], "block-local": [0, 1, 1, 1]}  # gpipe: two chunks of two blocks
    assert simulate("gpipe", costs, 2, 1).step_seconds == pytest.approx(12)
    assert simulate("block-local", costs, 2).step_seconds == pytest.approx(12)


# --- bad input


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"schedule": "1f2b"}, "Did you mean '1f1b'"),
        ({"devices": 0}, "devices must be"),
        ({"devices": 9}, "needs at least 9 blocks, not 8"),
        ({"schedule": "zb-v", "devices": 5}, "5 devices with 2 chunks each needs at least 10 blocks"),
        ({"schedule": "block-local", "devices": 9}, "cannot fill 9"),
        ({"micro_batches": 0}, "micro_batches must be"),
        ({"schedule": "interleaved", "micro_batches": 6}, "multiple of that: give 8"),
        ({"schedule": "interleaved", "chunks": 0}, "chunks must be"),
        ({"schedule": "block-local", "depth": 0}, "depth must be"),
        ({"costs": [BlockCosts(0, 0, 0)], "devices": 1}, "all costs are 0"),
        ({"costs": [BlockCosts(1, 1, 1, forward_overhead=-0.5)], "devices": 1}, "overhead is negative"),
    ],
)
def test_what_cannot_be_simulated_is_refused_with_the_reason(arguments, words):
    with pytest.raises(InputError, match=words):
        simulate(**{"schedule": "1f1b", "costs": blocks(8, 1), "devices": 4, "micro_batches": 8, **arguments})


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf"), "1", True, None])
def test_costs_are_finite_numbers_that_are_not_negative(bad):
    with pytest.raises(InputError, match="forward must be a number of at least 0"):
        BlockCosts(bad, 1.0, 1.0)


def test_what_is_kept_for_w_is_part_of_the_activations():
    with pytest.raises(InputError, match="weight_bytes"):
        BlockCosts(1, 1, 1, activation_bytes=1.0, weight_bytes=2.0)


@pytest.mark.parametrize("bad", [{"bandwidth": 0.0}, {"bandwidth": float("nan")}, {"latency": -1.0}])
def test_a_link_has_a_bandwidth_above_0_and_a_latency_of_at_least_0(bad):
    with pytest.raises(InputError, match=next(iter(bad))):
        Link(**bad)


def test_every_schedule_is_described():
    assert set(SCHEDULES.names()) == {*PIPELINES, "block-local"}
    assert all(schedule.summary for schedule in SCHEDULES.items.values())
