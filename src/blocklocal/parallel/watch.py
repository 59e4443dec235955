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
from pathlib import Path

import torch.distributed as dist

BEAT_SECONDS = 0.5
SILENT_SECONDS = 15.0
FAILURE, ASKED = "failure", "asked to stop"


class Watch:
    """Watches the run of `size` processes from process `rank`.

    quiet: say nothing (the launcher does). managed: end when the parent process does. silent: seconds without a sign
    of life.
    """

    def __init__(
        self,
        store: dist.Store,
        rank: int,
        size: int,
        *,
        quiet: bool = False,
        managed: bool = False,
        silent: float = SILENT_SECONDS,
    ):
        self.store, self.rank, self.size = store, rank, size
        self.quiet, self.silent = quiet, silent
        self._parent = os.getppid() if managed else None
        self._neighbours = sorted({(rank + 1) % size, (rank - 1) % size} - {rank})
        self._over = threading.Event()
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
        """This process leaves in good order: nobody must miss it."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()
        self.store.set(f"left/{self.rank}", "1")

    def fail(self, text: str, status: int) -> None:
        """Report what went wrong in this process; the others stop with it."""
        with self._lock:
            self._over.set()
            report(self.store, self.rank, text, status)

    def await_cause(self) -> None:
        """A message did not come because somebody failed: wait until the watch knows who, which ends this process."""
        time.sleep(self.silent + 3)

    # --- the threads

    def _run(self) -> None:
        seen: dict[int, tuple[bytes, float]] = {}
        count = 0
        while not self._over.wait(BEAT_SECONDS):
            count += 1
            with suppress(dist.DistError, RuntimeError), self._lock:  # the guard sees that the store is silent
                self.store.set(f"beat/{self.rank}", str(count))
                self._look(seen)
                self._heard = time.monotonic()

    def _guard(self) -> None:
        """A request to a store whose host is gone may never come back, so this thread asks nothing."""
        while not self._over.wait(BEAT_SECONDS):
            if self._parent is not None and os.getppid() != self._parent:
                os._exit(1)  # the launcher is gone: do not outlive it
            if time.monotonic() - self._heard > self.silent:
                text = f"the store of the run has not answered process {self.rank} for {self.silent:.0f} s: the process"
                self._end(f"{text} that holds it has ended, or its host cannot be reached.", "", 1)

    def _look(self, seen: dict[int, tuple[bytes, float]]) -> None:
        if self.store.check([FAILURE]):
            first = json.loads(self.store.get(FAILURE))
            if first["rank"] != self.rank:
                self._end(f"{about(self.store, first['rank'])} {first['text']}", remedy(self.store), first["status"])
        self.asked = self.asked or self.store.check([ASKED])
        now = time.monotonic()
        for rank in self._neighbours:
            if not self.store.check([f"beat/{rank}"]) or self.store.check([f"left/{rank}"]):
                continue
            beat = self.store.get(f"beat/{rank}")
            if rank not in seen or seen[rank][0] != beat:
                seen[rank] = beat, now
            elif self._is_dead(rank):
                report(self.store, rank, "died: it was killed, or ran out of memory.", 1)
            elif now - seen[rank][1] > self.silent:
                text = f"has not answered for {self.silent:.0f} s: it is stopped, or its host cannot be reached."
                report(self.store, rank, text, 1)

    def _is_dead(self, rank: int) -> bool:
        """Whether a process of this host is no more."""
        host, pid = json.loads(self.store.get(f"here/{rank}"))
        return host == host_identity() and not is_running(pid)

    def _end(self, text: str, advice: str, status: int) -> None:
        try:
            if not self.quiet:
                print(f"error: {text} Process {self.rank} stops too. {advice}".rstrip(), file=sys.stderr, flush=True)
        finally:  # also where nobody reads what is said
            os._exit(status)


def introduce(store: dist.Store, rank: int, text: str, advice: str) -> None:
    """Say what process `rank` is, for messages, and how a run that has stopped goes on."""
    store.set(f"about/{rank}", text)
    store.set("remedy", advice)


def about(store: dist.Store, rank: int) -> str:
    """`process 1 (block 2, pid 7 on host)`."""
    known = f" ({store.get(f'about/{rank}').decode()})" if store.check([f"about/{rank}"]) else ""
    return f"process {rank}{known}"


def remedy(store: dist.Store) -> str:
    return store.get("remedy").decode() if store.check(["remedy"]) else ""


def report(store: dist.Store, rank: int, text: str, status: int) -> None:
    """Name a failed process; the first report counts."""
    store.compare_set(FAILURE, "", json.dumps({"rank": rank, "text": text, "status": status}))


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
