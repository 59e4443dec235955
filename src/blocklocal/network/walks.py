"""In which order blocks take their steps: one rule, and three walks that keep it.

Block k at step t, the pair (k, t), needs two things, and nothing else:

    (k − 1, t) → (k, t)    the forward message of the block before, of the same step
    (k, t − 1) → (k, t)    its own state after the step before

Every order of all pairs that keeps both ends with the same weights, bit for bit. So an order may be chosen for what it
buys: one processor and one batch at a time (`step_by_step`, `Neighbours.walk`), many processors at work (`wavefront`,
`parallel.Stage`), or one block in memory at a time (`block_by_block`, `streaming.Streamed`).

What trains has loops of its own, with messages, threads and processes in them. The walks here say in which order those
loops must visit the pairs: the tests hold what was recorded of them against it.
"""

from collections.abc import Iterable, Iterator

Pair = tuple[int, int]  # (block, step), both counted from 0


def step_by_step(blocks: int, steps: int) -> Iterator[Pair]:
    """For every step: for every block."""
    for t in range(steps):
        for k in range(blocks):
            yield k, t


def wavefront(blocks: int, steps: int) -> Iterator[set[Pair]]:
    """The pairs that may be taken at the same time, one wave after the other: all with the same k + t."""
    for wave in range(blocks + steps - 1):
        yield {(k, wave - k) for k in range(blocks) if 0 <= wave - k < steps}


def block_by_block(blocks: int, steps: int, visit: int) -> Iterator[Pair]:
    """For every chunk of `visit` steps (the last may be shorter): for every block: the steps of the chunk."""
    for first in range(0, steps, visit):
        for k in range(blocks):
            for t in range(first, min(first + visit, steps)):
                yield k, t


def respects(order: Iterable[Pair]) -> bool:
    """Whether no pair comes twice, or before the message and the state that it needs."""
    done: set[Pair] = set()
    for k, t in order:
        ready = (k == 0 or (k - 1, t) in done) and (t == 0 or (k, t - 1) in done)
        if not ready or (k, t) in done:
            return False
        done.add((k, t))
    return True
