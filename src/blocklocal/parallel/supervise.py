"""What the launcher does while its processes run: it looks after every one, and says once what became of the run."""

import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from types import FrameType

from blocklocal._common.screen import one_line
from blocklocal.parallel.store import SealedStore
from blocklocal.parallel.watch import Failure, describe_rank, first_failure, has_left, report, resume_hint

POLL = 0.1
PATIENCE = 10.0  # seconds for the others to stop by themselves, once one has failed or the terminal is gone
SHOW_CURSOR = "\x1b[?25h"
STOPPED = 130  # exit status of a process that the user has stopped
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class Children:
    """The processes by rank, and what the user wants of them.

    Attributes:
        asked: how often the user has asked to stop; the second time nothing is waited for.
        deadline: when all are killed.
        killed: the process that somebody else had killed when the first was lost; None where none was.
    """

    def __init__(self) -> None:
        self.running: list[subprocess.Popen[bytes]] = []
        self.asked = 0
        self.deadline = float("inf")
        self.killed: int | None = None

    @contextmanager
    def listening(self) -> Generator["Children"]:
        """Signals are passed on meanwhile; nobody is left at the end."""
        before = {number: signal.getsignal(number) for number in SIGNALS}
        if before[signal.SIGHUP] is signal.SIG_IGN:  # nohup: the run outlives its terminal
            del before[signal.SIGHUP]
        for number in before:
            signal.signal(number, self._forward)
        try:
            yield self
        finally:
            self.kill()
            for number, handler in before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def add(self, child: subprocess.Popen[bytes]) -> None:
        self.running.append(child)
        if self.asked:  # while this one was started: it was not among those that were told
            child.send_signal(signal.SIGTERM if self.asked == 1 else signal.SIGKILL)

    def living(self) -> list[subprocess.Popen[bytes]]:
        """The processes that still run. Each is asked, so that those that have ended are known."""
        return [child for child in self.running if child.poll() is None]

    def kill(self) -> None:
        for child in self.living():
            child.kill()
        for child in self.running:
            child.wait()

    def _forward(self, number: int, frame: FrameType | None) -> None:
        """Pass a signal on as SIGTERM (a Python that is starting answers SIGINT with a traceback); the second kills."""
        self.asked += 2 if number == signal.SIGQUIT else 1
        if number == signal.SIGHUP:  # there is no terminal any more to ask a second time from
            self.deadline = time.monotonic() + PATIENCE
        for child in self.living():
            child.send_signal(signal.SIGTERM if self.asked == 1 else signal.SIGKILL)


def supervise(children: Children, store: SealedStore) -> None:
    """Wait for all; once one is lost the others are told, get a little time, and are killed then."""
    seen = False
    while children.living():
        if not seen and (lost := _lost(children, store)):
            seen = True
            children.killed = next((rank for rank, status in lost.items() if status == -signal.SIGKILL), None)
            children.deadline = min(children.deadline, time.monotonic() + PATIENCE)
            if not children.asked:
                _report(children, store)
        if time.monotonic() > children.deadline:
            children.kill()
        time.sleep(POLL)


def outcome(children: Children, store: SealedStore) -> int:
    """The exit status of the run, all of whose processes have ended; where it is not good, says why."""
    if children.running and not _lost(children, store) and children.asked < 2:
        return max(child.returncode for child in children.running)
    if sys.stdout.isatty():
        with suppress(OSError):
            print(SHOW_CURSOR, end="", flush=True)  # a live table that was cut off has hidden it
    first = first_failure(store)
    if children.asked and (children.asked > 1 or first is None):  # they had not begun to train
        say("stopped.")
        return STOPPED
    if first is None:
        _report(children, store)
        first = first_failure(store)
        assert first is not None, "it was reported"
    if children.killed is not None:  # what the others say, such as that they cannot connect, is because of it
        first = Failure(children.killed, _died(-signal.SIGKILL), 1)
    text = f"error: {describe_rank(store, first.rank)} {first.text} All processes were stopped. {resume_hint(store)}"
    say(text.rstrip())
    return first.status


def say(text: str) -> None:
    with suppress(OSError):  # the terminal may be gone
        print(one_line(text), file=sys.stderr, flush=True)


def _lost(children: Children, store: SealedStore) -> dict[int, int]:
    """Exit status by rank of those that have ended, and not in good order.

    Good order is to leave when all have come to the end, or have saved because the user has asked for it; any other end
    leaves the others waiting, whatever its status.
    """
    ended = {rank: child.returncode for rank, child in enumerate(children.running) if child.returncode is not None}
    return {r: status for r, status in ended.items() if status not in (0, STOPPED) or not has_left(store, r)}


def _report(children: Children, store: SealedStore) -> None:
    """Name the process that ended without a message, where no process has given a reason.

    One that was killed comes first: the others may have ended because of it.
    """
    rank, status = min(_lost(children, store).items(), key=lambda each: (each[1] > 0, each))
    report(store, rank, _died(status), 1)


def _died(status: int) -> str:
    if status < 0:
        known = {number.value: number.name for number in signal.Signals}
        name = known.get(-status, f"signal {-status}")
        return f"was ended by {name}{' (out of memory?)' if status == -signal.SIGKILL else ''}."
    if status in (0, STOPPED):
        return f"ended (status {status}) before the others had come to the end."
    return f"ended with status {status}."
