"""Jobs spread over processes: every job is independent of all others, so as many run at a time as there are cores.

One job at a time runs in this process (a GPU has one user then); more run in processes of their own, each with its own
number of threads. A wish to stop reaches the jobs as `should_stop`; nothing new is begun then. Jobs and outcomes travel
as pickles, over pipes that only this process and its own children have.
"""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing.synchronize import Event

import torch

from blocklocal._common.errors import InputError, Interrupted
from blocklocal._common.starting import safe_spawning
from blocklocal.runs.machine import find_device
from blocklocal.training.loop import Stopped
from blocklocal.training.tally import NotFinite
from experiments.experiment import EXPERIMENTS, Job, Place, Row

POLL = 0.2  # seconds between two looks at the wish to stop
PATIENCE = 10.0  # seconds for the other jobs to save, once a process was killed


@dataclass(frozen=True)
class Outcome:
    """What became of a job: its row, or why there is none. failed: it diverged; else it was stopped."""

    job: Job
    row: Row | None = None
    failed: str = ""

    @property
    def stopped(self) -> bool:
        return self.row is None and not self.failed


def measure(experiment: str, job: Job, place: Place, threads: int) -> Outcome:
    """One job, in the process that calls: the row with the conditions it was measured under."""
    torch.set_num_threads(threads)
    place.folder.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    try:
        result = EXPERIMENTS.get(experiment).run(job, place)
    except (Interrupted, Stopped):
        return Outcome(job)
    except NotFinite as error:
        return Outcome(job, failed=str(error))
    conditions: Row = {"seconds": time.perf_counter() - started, "threads": threads, "torch": torch.__version__}
    conditions["device"] = str(find_device(place.device))
    return Outcome(job, {"job": job.name, **job.settings, **conditions, **result})


def run_here(
    experiment: str, work: Sequence[tuple[Job, Place]], threads: int, should_stop: Callable[[], bool]
) -> Iterator[Outcome]:
    """The jobs one after the other, in this process."""
    before = torch.get_num_threads()
    try:
        for job, place in work:
            if should_stop():
                return
            outcome = measure(experiment, job, replace(place, should_stop=should_stop), threads)
            yield outcome
            if outcome.stopped:  # also by a signal that the job itself took
                return
    finally:
        torch.set_num_threads(before)


def run_spread(
    experiment: str,
    work: Sequence[tuple[Job, Place]],
    threads: int,
    should_stop: Callable[[], bool],
    processes: int,
) -> Iterator[Outcome]:
    """The jobs in `processes` processes, as they finish.

    An error of one job stops the others (they save, or finish) before it is raised. Raises InputError where one of the
    processes is killed. A second signal kills them all.
    """
    context = multiprocessing.get_context("spawn")
    with safe_spawning():
        stop = context.Event()
    queue, before = list(work), set(multiprocessing.active_children())
    trouble: BaseException | None = None
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_begin, initargs=(stop,)) as pool:
        running: set[Future[Outcome]] = set()
        try:
            while running or queue:
                if should_stop() or trouble is not None:
                    stop.set()
                    queue = []
                while queue and len(running) < processes:
                    job, place = queue.pop(0)
                    with safe_spawning():
                        running.add(pool.submit(_measure_there, experiment, job, place, threads))
                done, running = wait(running, POLL, FIRST_COMPLETED)
                for future in done:
                    error = future.exception()
                    trouble = trouble or error
                    if error is None:
                        yield future.result()
                if any(isinstance(future.exception(), BrokenProcessPool) for future in done):
                    _end_all_but(before)
                    break  # without another look at `stop`, whose lock the killed process may hold
        except BaseException:  # a second signal, or the caller's own trouble: nobody waits for the jobs any more
            _kill_all_but(before)
            raise
    if isinstance(trouble, BrokenProcessPool):
        raise InputError(
            "a process that measured a job was killed (out of memory?). What was finished is kept: give the same "
            "command again, with fewer --jobs."
        ) from trouble
    if trouble is not None:
        raise trouble


def _end_all_but(others: set[multiprocessing.process.BaseProcess]) -> None:
    """The pool has sent its processes SIGTERM: a training run saves; what does not listen is killed after a while."""
    end = time.monotonic() + PATIENCE
    while set(multiprocessing.active_children()) - others and time.monotonic() < end:
        time.sleep(POLL)
    _kill_all_but(others)


def _kill_all_but(others: set[multiprocessing.process.BaseProcess]) -> None:
    for child in set(multiprocessing.active_children()) - others:
        child.kill()


_stop: Event | None = None


def _begin(stop: Event) -> None:
    """Set up a worker: signals of the terminal are the parent's to act on, and it does not outlive the parent."""
    global _stop
    _stop = stop
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _measure_there(experiment: str, job: Job, place: Place, threads: int) -> Outcome:
    assert _stop is not None
    return measure(experiment, job, replace(place, should_stop=_stop.is_set), threads)
