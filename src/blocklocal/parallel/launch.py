"""`blocklocal train --processes P`: start P processes on this machine, speak for them, and leave none behind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import torch.distributed as dist

from blocklocal.errors import InputError
from blocklocal.parallel.address import JOIN_SECONDS, LAUNCHED
from blocklocal.parallel.processes import STALL_SECONDS
from blocklocal.parallel.stage import QUEUE
from blocklocal.parallel.watch import FAILURE, about, remedy, report
from blocklocal.ranges import MANY, Range, check_settings, whole

POLL = 0.1
SHOW_CURSOR = "\x1b[?25h"
PATIENCE = 10.0  # seconds for the others to stop by themselves, once one has failed

SECONDS = Range(0.001, 10**7)
RANGES = {
    **dict.fromkeys(("processes", "replicas", "queue"), whole(1, 1024)),
    "placement": whole(1, 10_000),
    "timeline": whole(0, MANY),
    **dict.fromkeys(("stall", "join"), SECONDS),
}


@dataclass(frozen=True)
class Launch:
    """How the blocks are spread over processes; it changes nothing in what is learned (but for replicas)."""

    processes: int = 1
    """Processes that share the blocks on this machine (under torchrun, as many as it has started)."""
    placement: tuple[int, ...] = ()
    """Blocks per process, first to last, such as 2 1 1; default: balanced by the measured time of the blocks' steps."""
    replicas: int = 1
    """Processes per group of blocks, each with its part of every batch; they average gradients (DDP)."""
    shard: bool = False
    """Replicas share parameters, gradients and optimiser states of their blocks (FSDP2), instead of a copy each."""
    queue: int = QUEUE
    """Messages that may be under way between two processes, before the faster one waits."""
    timeline: int = 500
    """Training steps of which every process records when it computes, waits and sends."""
    stall: float = STALL_SECONDS
    """Seconds after which a message that does not come is an error."""
    join: float = JOIN_SECONDS
    """Seconds to wait for all processes to be there."""

    def __post_init__(self) -> None:
        check_settings(self, RANGES)
        if self.shard and self.replicas == 1:
            raise InputError("--shard divides blocks among replicas: give --replicas of 2 or more with it.")


@dataclass
class _Children:
    """The processes, and what the user wants of them."""

    running: list[subprocess.Popen[bytes]] = field(default_factory=list)
    asked: int = 0

    def forward(self, number: int, frame: FrameType | None) -> None:
        """Pass a signal on as SIGTERM (a Python that is starting answers SIGINT with a traceback); the second kills."""
        self.asked += 1
        for child in self.running:
            if child.poll() is None:
                child.send_signal(signal.SIGTERM if self.asked == 1 else signal.SIGKILL)

    def kill(self) -> None:
        for child in self.running:
            if child.poll() is None:
                child.kill()
            child.wait()


def launch(command: Sequence[str], processes: int) -> int:
    """Run `blocklocal COMMAND` in `processes` processes; returns the exit status, after one message if it is not 0.

    The run's store is here, so that it outlives any of them.
    """
    base = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    store = dist.PrefixStore("blocklocal/0", base)
    children = _Children()
    before = {number: signal.signal(number, children.forward) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for rank in range(processes):
            if children.asked:
                break
            environment = _environment(rank, processes, base.port)
            program = [sys.executable, "-m", "blocklocal", *command]
            # A session of its own: a terminal's Ctrl-C comes to the parent alone, which passes it on.
            children.running.append(
                subprocess.Popen(program, env=environment, stdin=subprocess.DEVNULL, start_new_session=True)
            )
            if children.asked:  # while this one was started: it was not among those that were told
                children.running[-1].terminate()
        return _supervise(children, store)
    finally:
        children.kill()
        for number, handler in before.items():
            signal.signal(number, handler)


def _environment(rank: int, processes: int, port: int) -> dict[str, str]:
    set_here = {
        "RANK": rank,
        "WORLD_SIZE": processes,
        "LOCAL_RANK": rank,
        "LOCAL_WORLD_SIZE": processes,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        LAUNCHED: 1,
        "TORCHELASTIC_RESTART_COUNT": 0,  # of another launcher, where this one runs under it
    }
    defaults = {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
    return {**defaults, **os.environ, **{name: str(value) for name, value in set_here.items()}}


def _supervise(children: _Children, store: dist.Store) -> int:
    """Wait for all; once one has failed the others get a little time, and are killed then."""
    failed_at: float | None = None
    while any(child.poll() is None for child in children.running):
        if failed_at is None and any(child.returncode not in (None, 0, 130) for child in children.running):
            failed_at = time.monotonic()
            if not children.asked:
                _report_death(children, store)
        if failed_at is not None and time.monotonic() - failed_at > PATIENCE:
            children.kill()
        time.sleep(POLL)
    statuses = [child.returncode for child in children.running]
    if statuses and all(status in (0, 130) for status in statuses) and children.asked < 2:
        return max(statuses)
    if sys.stdout.isatty():
        print(SHOW_CURSOR, end="", flush=True)  # a live table that was cut off has hidden it
    if children.asked and (children.asked > 1 or not store.check([FAILURE])):  # they had not begun to train
        print("stopped.", file=sys.stderr)
        return 130
    _report_death(children, store)
    first: dict[str, Any] = json.loads(store.get(FAILURE))
    text = f"error: {about(store, first['rank'])} {first['text']} All processes were stopped. {remedy(store)}"
    print(text.rstrip(), file=sys.stderr)
    return first["status"]


def _report_death(children: _Children, store: dist.Store) -> None:
    """Name the process that died without a word, where none has said what is wrong."""
    for rank, child in enumerate(children.running):
        if child.returncode is not None and child.returncode < 0:
            name = signal.Signals(-child.returncode).name
            report(store, rank, f"was ended by {name}{' (out of memory?)' if name == 'SIGKILL' else ''}.", 1)
            return
    for rank, child in enumerate(children.running):
        if child.returncode not in (None, 0, 130):
            report(store, rank, f"ended with status {child.returncode}.", 1)
            return
