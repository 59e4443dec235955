"""Notices when a process of the run fails, dies or falls silent, and ends this one with a message that names it.

A thread of every process counts up a number in the store, and looks at those of its two neighbours and at the first
failure that anybody has reported; another one looks whether the store still answers. A main thread that waits for a
dead process cannot be woken, so the threads end the whole process; checkpoints appear whole or not at all, so nothing
is lost by it.
"""

import json
import os
import socket
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch.distributed as dist
from msgspec import Meta

from blocklocal._common.errors import InputError
from blocklocal._common.screen import one_line
from blocklocal.parallel.store import SealedStore, as_text, decode

BEAT_SECONDS = 0.5
SILENT_SECONDS = 15.0
FAILURE, ASKED = "failure", "asked to stop"


@dataclass(frozen=True)
class Failure:
    """Which process failed first, what became of it (to follow its name), and the exit status of all."""

    rank: Annotated[int, Meta(ge=0)]
    text: str
    status: Annotated[int, Meta(ge=0, le=255)]


class Watch:
    """Watches the run of `size` processes from process `rank`.

    Args:
        quiet: print nothing (the launcher does).
        silent: seconds without a sign of life after which a process counts as lost.
        over: whether this process need not be watched any more.
    """

    def __init__(
        self,
        store: SealedStore,
        rank: int,
        size: int,
        *,
        quiet: bool = False,
        silent: float = SILENT_SECONDS,
        over: threading.Event | None = None,
    ):
        self.store, self.rank, self.size = store, rank, size
        self.quiet, self.silent = quiet, silent
        self._neighbours = sorted({(rank + 1) % size, (rank - 1) % size} - {rank})
        self._over = over or threading.Event()
        self._lock = threading.Lock()
        self.asked = False  # somewhere the user has asked to stop
        self._heard = 0.0
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        self.store.set(f"here/{self.rank}", json.dumps([host_identity(), os.getpid()]))
        self.store.set(f"beat/{self.rank}", "0")
        self._heard = time.monotonic()
        self._thread.start()
        threading.Thread(target=self._guard, name="guard", daemon=True).start()

    def stop(self) -> None:
        """This process leaves in good order: the others must not report it as lost."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()
        self.store.set(f"left/{self.rank}", "1")

    def fail(self, text: str, status: int) -> None:
        """Report what went wrong in this process; the others stop with it."""
        with self._lock:
            self._over.set()
            with suppress(InputError, dist.DistError):  # somebody else has written there, or nobody can any more
                report(self.store, self.rank, text, status)
        if self._thread.is_alive():  # torch ends the process where Python ends while a thread asks the store
            self._thread.join(4 * BEAT_SECONDS)

    def await_cause(self) -> None:
        """A message did not come because somebody failed: wait until the watch knows who, which ends this process."""
        time.sleep(self.silent + 3)

    # --- the threads

    def _run(self) -> None:
        seen: dict[int, tuple[int, float]] = {}
        count = 0
        while not self._over.wait(BEAT_SECONDS):
            count += 1
            try:
                with suppress(dist.DistError, RuntimeError), self._lock:  # the guard sees that the store is silent
                    if self._over.is_set():
                        return
                    self.store.set(f"beat/{self.rank}", str(count))
                    self._look(seen)
                    self._heard = time.monotonic()
            except InputError as error:  # what is there, no process of this run has written
                self._forged(error)

    def _guard(self) -> None:
        """A request to a store whose host is gone may never come back, so this thread asks nothing."""
        while not self._over.wait(BEAT_SECONDS):
            if time.monotonic() - self._heard > self.silent:
                text = f"the store of the run has not answered process {self.rank} for {self.silent:.0f} s: the process"
                self._end(f"{text} that holds it has ended, or its host cannot be reached.", "", 1)

    def _look(self, seen: dict[int, tuple[int, float]]) -> None:
        first = first_failure(self.store)
        if first is not None and first.rank != self.rank:
            self._end(f"{describe_rank(self.store, first.rank)} {first.text}", resume_hint(self.store), first.status)
        self.asked = self.asked or self.store.read(ASKED) is not None
        now = time.monotonic()
        for rank in self._neighbours:
            beat = self.store.read(f"beat/{rank}")
            if (beat is None and rank not in seen) or has_left(self.store, rank):
                continue
            count = -1 if beat is None else decode(beat, int)
            if rank not in seen or count > seen[rank][0]:  # an old one that somebody has put back is no sign of life
                seen[rank] = count, now
            elif self._is_dead(rank):
                report(self.store, rank, "died: it was killed, or ran out of memory.", 1)
            elif now - seen[rank][1] > self.silent:
                text = f"has not answered for {self.silent:.0f} s: it is stopped, or its host cannot be reached."
                report(self.store, rank, text, 1)

    def _is_dead(self, rank: int) -> bool:
        """Whether a process of this host is no more."""
        host, pid = decode(self.store.get(f"here/{rank}"), tuple[str, Annotated[int, Meta(gt=0)]])
        return host == host_identity() and not is_running(pid)

    def _forged(self, error: InputError) -> None:
        with suppress(InputError, dist.DistError):
            report(self.store, self.rank, f"stopped: {error}", 1)
        self._end(str(error), "", 1)

    def _end(self, text: str, advice: str, status: int) -> None:
        try:
            if not self.quiet:
                said = one_line(f"error: {text} Process {self.rank} stops too. {advice}".rstrip())
                print(said, file=sys.stderr, flush=True)
        finally:  # also where nobody reads what is said
            os._exit(status)


def end_with_parent(over: threading.Event) -> None:
    """From now on, until `over`, this process ends when the one that has started it does."""
    parent = os.getppid()

    def look() -> None:
        while not over.wait(BEAT_SECONDS):
            if os.getppid() != parent:
                os._exit(1)

    threading.Thread(target=look, name="parent", daemon=True).start()


def register_rank(store: SealedStore, rank: int, text: str, advice: str) -> None:
    """Write down what process `rank` is, for messages, and how a run that has stopped goes on."""
    store.set(f"about/{rank}", text)
    store.set("resume_hint", advice)


def describe_rank(store: SealedStore, rank: int) -> str:
    """`process 1 (block 2, pid 7 on host)`."""
    known = store.read(f"about/{rank}")
    return f"process {rank}" + (f" ({as_text(known)})" if known else "")


def resume_hint(store: SealedStore) -> str:
    return as_text(store.read("resume_hint") or b"")


def report(store: SealedStore, rank: int, text: str, status: int) -> None:
    """Name a failed process; the first report counts."""
    store.set_first(FAILURE, json.dumps(asdict(Failure(rank, text, status))))


def first_failure(store: SealedStore) -> Failure | None:
    said = store.read(FAILURE)
    return None if said is None else decode(said, Failure)


def has_left(store: SealedStore, rank: int) -> bool:
    """Whether a process has left in good order: nobody needs it any more."""
    return store.read(f"left/{rank}") is not None


def host_identity() -> str:
    """The same for processes that see each other's numbers; host names may be equal in containers that do not."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def is_running(pid: int) -> bool:
    """Whether a process of this host lives (one that has ended and was not waited for does not)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return not Path("/proc").is_dir()
