"""The order of pairs (block, step). Oracles: the partial order itself, and what real walks were seen to do."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import streaming_helpers as st

from blocklocal.block.learner import BlockLearner
from blocklocal.block.step import StepContext
from blocklocal.network.neighbours import Neighbours
from blocklocal.network.walks import Pair, block_by_block, respects, step_by_step, wavefront

SIZES = [(1, 1), (1, 4), (3, 1), (3, 4), (2, 5)]
WALKS = {
    "step by step": step_by_step,
    "wavefront": lambda blocks, steps: itertools.chain.from_iterable(wavefront(blocks, steps)),
    **{f"visits of {n}": lambda blocks, steps, n=n: block_by_block(blocks, steps, n) for n in (1, 2, 3, 7)},
}
build = st.made(st.dense, 3)


@pytest.mark.parametrize(("blocks", "steps"), SIZES)
@pytest.mark.parametrize("walk", WALKS)
def test_every_walk_takes_all_pairs_once_and_keeps_the_partial_order(walk: str, blocks: int, steps: int) -> None:
    order = list(WALKS[walk](blocks, steps))
    assert sorted(order) == list(itertools.product(range(blocks), range(steps)))
    assert respects(order)


@pytest.mark.parametrize(("blocks", "steps"), SIZES)
def test_pairs_of_one_wave_wait_for_none_of_each_other(blocks: int, steps: int) -> None:
    waves, before = list(wavefront(blocks, steps)), list[Pair]()
    for wave in waves:
        for order in itertools.permutations(wave):
            assert respects([*before, *order])
        before += sorted(wave)
    assert len(waves) == blocks + steps - 1  # no order has fewer: the last block's last step waits for so many


def test_of_all_orders_of_two_blocks_and_two_steps_those_that_wait_are_kept() -> None:
    """Two pairs are free in between, (1, 0) and (0, 1), so two orders of 24 remain."""
    pairs = list(itertools.product(range(2), range(2)))
    kept = [order for order in itertools.permutations(pairs) if respects(order)]
    assert kept == [((0, 0), (0, 1), (1, 0), (1, 1)), ((0, 0), (1, 0), (0, 1), (1, 1))]


def test_a_pair_that_is_taken_twice_is_no_order() -> None:
    assert not respects([(0, 0), (0, 0)])


def test_visits_of_one_step_are_step_by_step_and_of_all_steps_block_after_block() -> None:
    assert list(block_by_block(3, 4, 1)) == list(step_by_step(3, 4))
    assert list(block_by_block(3, 4, 4)) == list(itertools.product(range(3), range(4)))


@contextmanager
def seen(patch: pytest.MonkeyPatch) -> Iterator[list[Pair]]:
    """The pairs in which learners take their steps."""
    order, receive = list[Pair](), BlockLearner.receive

    def noting(self: BlockLearner, *given: object, context: StepContext, **named: object) -> object:
        order.append((self.index, context.step))
        return receive(self, *given, context=context, **named)  # type: ignore[arg-type]

    with patch.context() as patched:
        patched.setattr(BlockLearner, "receive", noting)
        yield order


def steps_of(network: Neighbours, patch: pytest.MonkeyPatch) -> list[Pair]:
    with seen(patch) as order:
        for _ in network.walk(st.batches(5)):
            pass
    return order


def test_the_ordinary_network_walks_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    assert steps_of(build(), monkeypatch) == list(step_by_step(3, 5))


@pytest.mark.parametrize("visit", [1, 2, 5, 8])
def test_the_streamed_network_walks_block_by_block(visit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert steps_of(st.streamed(build, visit=visit), monkeypatch) == list(block_by_block(3, 5, visit))


def test_the_picture_in_the_documentation_is_of_these_walks() -> None:
    """Each pair has the number of its turn."""
    page = (Path(__file__).parents[1] / "docs" / "streaming.md").read_text()
    blocks, steps = 3, 4
    turns = [
        {pair: n for n, pair in enumerate(step_by_step(blocks, steps), 1)},
        {pair: n for n, wave in enumerate(wavefront(blocks, steps), 1) for pair in wave},
        {pair: n for n, pair in enumerate(block_by_block(blocks, steps, 2), 1)},
    ]
    for k in range(blocks):
        numbers = [" ".join(f"{turn[k, t]:2}" for t in range(steps)) for turn in turns]
        assert f"block {k + 1}    " + "      ".join(numbers) in page
