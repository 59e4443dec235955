"""Blocks in turn: while one computes, the next is fetched and the one before is written back."""

import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

from blocklocal.block.learner import BlockLearner
from blocklocal.streaming.allocator import give_back
from blocklocal.timeline.segments import FETCH, WAIT, WRITE
from blocklocal.training.pages import Pages

T = TypeVar("T")
Timed = Callable[[str, int], AbstractContextManager[None]]


class Visits:
    """Makes block learners one after the other; at most `most` of them are in memory.

    Args:
        fetch: makes the learner of a block, with its optimiser or without (`optimizer=`). It runs in a thread of its
            own.
        write: takes a learner back. It runs in another thread.
        most: 3: one computes, one is fetched, one is written back; 2: one computes, and one is either; 1: one is all.
        timed: the context in which a block is fetched, is written, or is waited for.

    Attributes:
        peak: the most learners that have been alive at a time so far.
    """

    def __init__(
        self,
        fetch: Callable[..., BlockLearner],
        write: Callable[[BlockLearner], None],
        *,
        most: int = 3,
        timed: Timed = lambda kind, block: nullcontext(),
    ):
        self._fetch, self._write, self._timed = fetch, write, timed
        self._room = threading.Semaphore(most)
        self._alive: weakref.WeakSet[BlockLearner] = weakref.WeakSet()
        self.peak = 0

    def run(
        self, blocks: Sequence[int], do: Callable[[BlockLearner], T], *, writes: bool, optimizers: bool = True
    ) -> list[T]:
        """`do` with the learner of every block, in this order.

        Args:
            do: must not keep the learner.
            writes: whether `do` changes it, so that it is written back.
            optimizers: whether learners have their optimisers; without, less is read.
        """
        given, pages = list[T](), Pages()
        with ThreadPoolExecutor(1, "fetch") as fetching, ThreadPoolExecutor(1, "write") as writing:
            coming: list[Future[list[BlockLearner]]] = []
            written: list[Future[None]] = []
            stopped = threading.Event()
            try:
                for place in range(len(blocks)):
                    for block in blocks[place + len(coming) : place + 2]:  # this one, and the next ahead
                        coming.append(fetching.submit(self._bring, block, stopped, optimizers, pages))
                    with self._timed(WAIT, blocks[place]):
                        held = coming[0].result()  # still among those that `_empty` looks after
                    coming.pop(0)
                    given.append(self._done(do, held))
                    written.append(writing.submit(self._return, blocks[place], held, writes))
                    _raise(written)
                with self._timed(WAIT, blocks[-1]):
                    for each in written:
                        each.result()
            except BaseException:
                stopped.set()
                raise
            finally:
                self._empty(coming, written)
                pages.close()
        return given

    def _done(self, do: Callable[[BlockLearner], T], held: list[BlockLearner]) -> T:
        try:
            return do(held[0])
        except BaseException:
            self._room.release()
            raise

    def _bring(self, block: int, stopped: threading.Event, optimizer: bool, pages: Pages) -> list[BlockLearner]:
        """The learner in a list, which others may keep: who takes it out has the only reference."""
        while not self._room.acquire(timeout=0.05):
            if stopped.is_set():
                raise RuntimeError("the visits have ended")
        try:
            with self._timed(FETCH, block), pages.used():  # of blocks that have gone
                learner = self._fetch(block, optimizer=optimizer)
        except BaseException:
            self._room.release()
            raise
        self._alive.add(learner)
        self.peak = max(self.peak, len(self._alive))
        return [learner]

    def _return(self, block: int, held: list[BlockLearner], writes: bool) -> None:
        """held: the learner, in a list, so that nobody else keeps it."""
        try:
            learner = held.pop()
            if writes:
                with self._timed(WRITE, block):
                    self._write(learner)
            del learner
            give_back()  # else what little stays of every visit leaves holes as large as a block's gradients
        finally:
            self._room.release()

    def _empty(self, coming: list[Future[list[BlockLearner]]], written: list[Future[None]]) -> None:
        """Wait for what is under way; blocks that were fetched in vain make room again."""
        for future in coming:
            if not future.cancel() and future.exception() is None:
                self._room.release()
        for each in written:
            each.exception()


def _raise(written: list[Future[None]]) -> None:
    """What has failed in writing so far, before more is computed."""
    for each in written:
        if each.done():
            each.result()
