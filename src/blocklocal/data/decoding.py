"""Images decoded one after the other, here or in processes that decode for this one: the pixels are the same."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count as numbers
from itertools import islice
from pathlib import Path

from blocklocal.data.single import Answer, Wish, decode_one
from blocklocal.data.worker import Worker

Found = tuple[str, bytes | Path | None]  # where an image is from, and what it is
_TRIED = 64  # images decoded here first, to see how long they take
_WORTH = 4.0  # seconds of work left for which other processes are started
_MOST = 16
_PART = 32  # images given to a process at a time
_AHEAD = 3  # parts per process that are on their way


def decoded(
    images: Iterable[Found], wish: Wish, *, count: int, workers: int | None = None
) -> Iterator[tuple[str, Answer]]:
    """(where it is from, what came of it) for every image, in their order.

    Args:
        count: how many there are.
        workers: processes that decode; 0 for none, None for one per CPU where the work is worth it.
    """
    given = iter(images)
    if workers is None:
        started = time.perf_counter()
        for where, source in islice(given, _TRIED):
            yield where, decode_one(source, wish)
        left = (time.perf_counter() - started) / _TRIED * (count - _TRIED)
        workers = min(_MOST, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
        workers = workers if left > _WORTH and workers > 1 else 0
    if not workers:
        yield from ((where, decode_one(source, wish)) for where, source in given)
        return
    yield from _spread(given, wish, workers)


def _spread(given: Iterator[Found], wish: Wish, count: int) -> Iterator[tuple[str, Answer]]:
    """Parts go to the workers in turn; a thread for each waits for its answers."""
    workers = [Worker(wish) for _ in range(count)]
    threads = [ThreadPoolExecutor(1, thread_name_prefix="blocklocal-decode") for _ in workers]
    pending: deque[tuple[list[str], Future[list[Answer]]]] = deque()
    try:
        for turn in numbers():
            part = list(islice(given, _PART))
            if part:
                k = turn % count
                answers = threads[k].submit(workers[k].decode, [source for _, source in part])
                pending.append(([where for where, _ in part], answers))
            if not part and not pending:
                return
            if not part or len(pending) >= _AHEAD * count:
                names, future = pending.popleft()
                yield from zip(names, future.result(), strict=True)
    finally:
        for worker in workers:
            worker.stop()
        for thread in threads:
            thread.shutdown(cancel_futures=True)
