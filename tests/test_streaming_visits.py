"""Oracle: the number of blocks that may be in memory. Visits that end early make room again."""

from __future__ import annotations

import signal
import threading

import pytest
from torch import nn

from blocklocal.block.learner import BlockLearner
from blocklocal.streaming.visits import Visits


def learner(k: int) -> BlockLearner:
    return BlockLearner(nn.Linear(2, 2), None, index=k)


def test_ctrl_c_while_a_block_is_awaited_leaves_room_for_the_next_visits():
    slow, wait = threading.Event(), [True]

    def fetch(k: int, optimizer: bool) -> BlockLearner:
        if wait[0]:
            slow.wait(5)
        return learner(k)

    def interrupt(*_: object) -> None:
        wait[0] = False
        slow.set()
        raise KeyboardInterrupt

    visits = Visits(fetch, lambda each: None, most=1)
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(KeyboardInterrupt):
            visits.run(range(3), lambda each: each.index, writes=False)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert visits.run(range(3), lambda each: each.index, writes=False) == [0, 1, 2]
