"""When this process computes, waits and sends: the timeline of a parallel run (format: `docs/runs.md`)."""

import os
import socket
from collections import defaultdict
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from blocklocal.timeline.file import TimelineFile
from blocklocal.timeline.segments import COMPUTE, MESSAGE, SEND, WAIT

STEPS = 500  # that have their spans recorded, unless told otherwise
Span = tuple[str, int | None, float, float]


def who(
    names: Mapping[int, str],
    threads: int,
    device: torch.device,
    *,
    process: int = 0,
    replica: int = 0,
    stage: int = 0,
    visit: int = 0,
) -> dict[str, Any]:
    """What a timeline says of this process.

    Args:
        names: of its blocks, by their numbers.
        visit: steps that a block takes in a row; 0 where all blocks are in memory.
    """
    return {
        "process": process,
        "replica": replica,
        "stage": stage,
        "blocks": list(names),
        "names": list(names.values()),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "threads": threads,
        "device": str(device),
        **({"visit": visit} if visit else {}),
    }


class Recorder:
    """Sums over all steps, and the spans of the first ones, as JSON lines.

    On CUDA the device is waited for at the end of a recorded span, which costs some overlap; afterwards, in the sums,
    the times are the host's.

    Args:
        path: None for sums only.
        steps: so many steps have their spans recorded.
    """

    def __init__(self, path: Path | None = None, process: dict[str, Any] | None = None, *, steps: int = 0):
        self.left = steps if path is not None else 0
        self._spans: list[Span] = []
        self._training = False
        self._open: list[tuple[str, int | None]] = []
        self._since = 0.0
        self._sums: dict[tuple[str, int | None], float] = defaultdict(float)
        self._steps, self._begun, self._ended = 0, 0.0, 0.0
        self._cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
        self._file = TimelineFile(path, process)

    @contextmanager
    def span(self, kind: str, block: int | None = None) -> Generator[None]:
        """Time the body; a span inside another one interrupts it."""
        now = self._now()
        if self._open:
            self._note(*self._open[-1], now)
        self._open.append((kind, block))
        self._since = now
        try:
            yield
        finally:
            now = self._now()
            self._note(*self._open.pop(), now)
            self._since = now

    def begin(self) -> None:
        """A stretch of training steps begins."""
        self._training = True
        self._begun = self._ended = self._now()
        self._sums.clear()
        self._steps = 0

    def pause(self) -> None:
        """Something else than training begins: what happens then does not count."""
        self._training = False

    def step(self, number: int) -> None:
        """A training step is over; its spans are those since the last one."""
        self._steps += 1
        self._ended = self._now()
        if self.left > 0:
            self.left -= 1
            self._file.write({"event": "step", "step": number, "spans": self._spans})
        self._spans = []

    def totals(self, epoch: int) -> dict[str, Any]:
        """Seconds of the stretch: in all, and by what was done in them."""
        compute = {str(block): s for (kind, block), s in self._sums.items() if kind == COMPUTE and block is not None}
        sums = {kind: self._sums[kind, None] for kind in (WAIT, MESSAGE, SEND)}
        seconds = self._ended - self._begun
        totals = {"epoch": epoch, "steps": self._steps, "seconds": seconds, **sums, "compute": compute}
        self._file.write({"event": "totals", **totals})
        return totals

    def close(self) -> None:
        self._file.close()

    def _note(self, kind: str, block: int | None, now: float) -> None:
        if not self._training:
            return
        self._sums[kind, block] += now - self._since
        if self.left > 0:
            self._spans.append((kind, block, round(self._since, 6), round(now, 6)))

    def _now(self) -> float:
        if self._cuda and self.left > 0:
            torch.cuda.synchronize()
        return self._file.now()
