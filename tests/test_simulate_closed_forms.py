"""Oracle: the closed forms of the papers, over grids of devices, micro-batches and times."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulate_helpers import PIPELINES, blocks

from blocklocal.simulate import BlockCosts, Link, simulate

counts = st.integers(1, 7)
times = st.floats(0.1, 10)
quick = settings(deadline=None, max_examples=25)


@quick
@given(p=counts, m=st.integers(1, 20), F=times, B=times, W=times)
def test_gpipe_and_1f1b_idle_by_the_share_of_the_pipelines_length(p, m, F, B, W):
    """Huang et al. 2019, Narayanan et al. 2019: (p − 1) / (m + p − 1), whatever the passes take."""
    for schedule in ("gpipe", "1f1b"):
        result = simulate(schedule, blocks(p, m, F, B, W), p, m)
        assert result.idle_share == pytest.approx((p - 1) / (m + p - 1), abs=1e-9)
        assert result.step_seconds == pytest.approx((m + p - 1) * (F + B + W))


@quick
@given(p=counts, turns=st.integers(1, 4), chunks=st.integers(1, 4), F=times, backward=times)
def test_interleaving_divides_the_idle_time_by_the_chunks(p, turns, chunks, F, backward):
    """Narayanan et al. 2021: (p − 1)(F + B) / v, F and B of a device's share."""
    m = p * turns
    parts = blocks(p * chunks, m, F / chunks, backward / chunks / 2, backward / chunks / 2)
    result = simulate("interleaved", parts, p, m, chunks=chunks)
    assert result.idle_seconds == pytest.approx((p - 1) * (F + backward) / chunks, abs=1e-6)


@st.composite
def short_weight_passes(draw):
    """F, B ≥ W: the condition of the closed forms of ZB-H1 and ZB-H2."""
    W = draw(times)
    return W + draw(st.floats(0, 5)), W + draw(st.floats(0, 5)), W


@quick
@given(p=counts, more=st.integers(0, 15), passes=short_weight_passes())
def test_zb_h1_idles_p_minus_1_times_f_plus_b_minus_w(p, more, passes):
    """Qi et al. 2023, table 1; exact for m ≥ p and W ≤ F, B."""
    F, B, W = passes
    m = p + more
    result = simulate("zb-h1", blocks(p, m, F, B, W), p, m)
    assert result.idle_seconds == pytest.approx((p - 1) * (F + B - W), abs=1e-6)


@quick
@given(p=counts, more=st.integers(0, 15), passes=short_weight_passes())
def test_zb_h2_idles_p_minus_1_times_f_plus_b_minus_2_w(p, more, passes):
    """Qi et al. 2023, table 1; exact for m ≥ 2p − 1 and W ≤ F, B."""
    F, B, W = passes
    m = 2 * p - 1 + more
    result = simulate("zb-h2", blocks(p, m, F, B, W), p, m)
    assert result.idle_seconds == pytest.approx((p - 1) * (F + B - 2 * W), abs=1e-6)


@pytest.mark.parametrize("W", [2.0, 3.0])
def test_zb_h1_cannot_keep_its_closed_form_when_w_is_long(W):
    """The first device waits (p − 1)·B for its first gradient, however much W there is to delay."""
    result = simulate("zb-h1", blocks(4, 12, 1.0, 1.0, W), 4, 12)
    assert result.idle_seconds >= 3 * 1.0 > 3 * (1.0 + 1.0 - W)


@quick
@given(p=counts, more=st.integers(0, 15), time=times)
def test_zb_v_and_zb_h2_never_idle_when_the_three_passes_are_equal(p, more, time):
    """Qi et al. 2023, sections 2.2 and 6: zero bubble at F = B = W, from 2p − 1 micro-batches on."""
    m = 2 * p - 1 + more
    for schedule, chunks in (("zb-v", 2), ("zb-h2", 1)):
        result = simulate(schedule, blocks(p * chunks, m, time, time, time), p, m)
        assert result.idle_share == pytest.approx(0, abs=1e-9)


def test_waiting_for_all_devices_gives_back_the_bubble_that_zb_v_and_zb_h2_avoid():
    for schedule, chunks in (("zb-v", 2), ("zb-h2", 1)):
        free, flushed = (simulate(schedule, blocks(4 * chunks, 8), 4, 8, flush=flush) for flush in (None, True))
        assert flushed.idle_seconds == pytest.approx(free.idle_seconds + 3)


# --- memory and traffic


@pytest.mark.parametrize("p", [1, 2, 4, 7])
@pytest.mark.parametrize("turns", [1, 2, 4])
def test_peak_memory_is_that_of_the_papers(p, turns):
    """In activations of one device's share for one micro-batch (2104.04473, 2401.10241, 2405.15362)."""
    m = p * turns

    def peak(schedule: str, chunks: int = 1) -> float:
        return simulate(schedule, blocks(p * chunks, m, activation_bytes=m / chunks), p, m).activation_bytes

    assert peak("gpipe") == pytest.approx(m)
    assert peak("1f1b") == pytest.approx(min(p, m))
    assert peak("interleaved", 2) == pytest.approx(min(p + (p - 1) / 2, m))
    assert peak("zb-h1") == pytest.approx(min(p, m))
    assert peak("zb-h2") == pytest.approx(min(2 * p - 1, m))
    assert peak("zb-v", 2) <= p + 1e-9


def test_activations_that_only_b_needs_are_free_before_w():
    """ZB-H1's last device delays W: what W does not need must not wait for it."""
    keeping, trimmed = (blocks(1, 8, activation_bytes=8.0, weight_bytes=kept) for kept in (8.0, 2.0))
    others = blocks(3, 8)
    assert simulate("zb-h1", others + keeping, 4, 8).activation_bytes == pytest.approx(1 + 3)
    assert simulate("zb-h1", others + trimmed, 4, 8).activation_bytes == pytest.approx(1 + 3 * 0.25)


@pytest.mark.parametrize(
    ("schedule", "chunks", "crossings"), [("gpipe", 1, 3), ("zb-h2", 1, 3), ("interleaved", 2, 7), ("zb-v", 2, 6)]
)
def test_a_batch_sends_one_message_each_way_over_every_boundary_between_devices(schedule, chunks, crossings):
    """ZB-V's turn stays on the last device; interleaved chunks wrap around."""
    parts = [BlockCosts(8, 8, 8, forward_bytes=3.0, backward_bytes=5.0)] * (4 * chunks)
    assert simulate(schedule, parts, 4, 8).wire_bytes == pytest.approx(crossings * 8.0)


def test_block_local_sends_no_gradient():
    assert simulate("block-local", blocks(4, 1, message=3.0), 4).wire_bytes == pytest.approx(9.0)


# --- links


@quick
@given(p=st.integers(2, 5), m=st.integers(1, 12), transfer=st.floats(0, 5), latency=st.floats(0, 5))
def test_gpipe_with_links_takes_the_length_of_two_trains_of_messages(p, m, transfer, latency):
    """Forward: the first micro-batch crosses everything, the rest follow at the pace of the slower of pass and link."""
    result = simulate("gpipe", blocks(p, m, 1, 1, 1, message=transfer), p, m, link=Link(1.0, latency))
    hops = (p - 1) * (transfer + latency)
    forward = p + hops + (m - 1) * max(1, transfer)
    # Device p−1 starts its backward passes when its last forward pass is over; so the trains follow one another.
    assert result.step_seconds == pytest.approx(forward + 2 * p + hops + (m - 1) * max(2, transfer))


def test_a_link_that_is_slower_than_every_pass_sets_the_pace():
    slow = Link(bandwidth=1.0)
    for schedule, chunks in (("gpipe", 1), ("1f1b", 1), ("zb-h1", 1), ("zb-h2", 1), ("zb-v", 2), ("interleaved", 2)):
        parts = blocks(4 * chunks, 8, message=20.0)
        assert simulate(schedule, parts, 4, 8, link=slow).step_seconds >= 8 * 20
    assert simulate("block-local", blocks(4, 8, message=20.0), 4, link=slow).step_seconds == pytest.approx(8 * 20)


def test_overhead_is_paid_by_every_micro_batch():
    costs = [BlockCosts(1.0, 1.0, 1.0, forward_overhead=0.2, backward_weight_overhead=-0.1)]
    forward, backward, weight = 0.2 + 0.8 / 4, 1 / 4, -0.1 + 1.1 / 4
    assert simulate("gpipe", costs, 1, 4).step_seconds == pytest.approx(4 * (forward + backward + weight))
    assert simulate("block-local", costs, 1).step_seconds == pytest.approx(3.0)


@pytest.mark.parametrize("schedule", [*PIPELINES, "block-local"])
def test_the_updates_of_all_blocks_of_a_device_are_part_of_every_step(schedule):
    without, updated = (simulate(schedule, blocks(8, 8, update=update), 4, 8).step_seconds for update in (0, 0.25))
    assert updated == pytest.approx(without + 2 * 0.25)
