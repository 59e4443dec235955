"""When blocks compute, are fetched and are written back where one at a time is in memory (format: `docs/runs.md`)."""

import threading
from collections import defaultdict
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from blocklocal.timeline.file import TimelineFile
from blocklocal.timeline.recorder import Span
from blocklocal.timeline.segments import COMPUTE, FETCH, MESSAGE, SEND, WAIT, WRITE


@dataclass
class _Opened:
    """A span under way; `since` is where it began, or where it went on after an interruption."""

    kind: str
    block: int | None
    step: int
    since: float


class VisitRecorder:
    """Sums over all steps, and the spans of the first ones, as JSON lines. Spans may come from several threads at once.

    What happens outside of a stretch of training, from `begin` to `totals`, is not recorded: such as the fetching of
    blocks for an evaluation. On CUDA the
    device is waited for at the end of a recorded span of computing; all other times are the host's.

    Args:
        path: None for sums only.
        steps: so many steps have their spans recorded.
    """

    def __init__(self, path: Path | None = None, process: dict[str, Any] | None = None, *, steps: int = 0):
        self.left = steps if path is not None else 0
        self._lock, self._local = threading.Lock(), threading.local()
        self._training = self._open = False
        self._early: list[Span] = []  # since the last chunk
        self._spans: list[list[Span]] = []  # per step of the chunk that is recorded
        self._sums: dict[tuple[str, int | None], float] = defaultdict(float)
        self._steps, self._begun = 0, 0.0
        self._cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
        self._file = TimelineFile(path, process)

    def begin(self) -> None:
        """A stretch of training steps begins."""
        self._begun, self._steps, self._training = self._file.now(), 0, True
        self._sums.clear()
        self._early.clear()

    @contextmanager
    def chunk(self, first: int, steps: int) -> Generator[None]:
        """All blocks in turn take the same `steps` steps. Where that fails, it is not recorded.

        Args:
            first: the number of the first step.
        """
        self._spans, self._open = [[] for _ in range(min(steps, self.left))], True
        if self._spans:
            self._spans[0] += self._early
        self._early.clear()
        try:
            yield
        finally:
            self._open = False
        self._steps += steps
        self.left -= len(self._spans)
        for number, spans in enumerate(self._spans, first):
            ordered = sorted(spans, key=lambda span: span[2:])
            self._file.write({"event": "step", "step": number, "spans": ordered})

    @contextmanager
    def span(self, kind: str, block: int | None = None, step: int | None = None) -> Generator[None]:
        """Time the body; a span inside another one of the same thread interrupts it.

        Args:
            kind: "compute", "wait" (for the block to be fetched or written back), "fetch" or "write"; "wait", "message"
                or "send" without a block for the messages of another process.
            block: counted from 0.
            step: of the chunk, counted from 0. Default: that of the interrupted span, or else the first one, to which
                belongs what is done once per visit.
        """
        opened = self._opened()
        if opened:
            self._note(opened[-1])
        inherited = opened[-1].step if opened else 0
        opened.append(_Opened(kind, block, inherited if step is None else step, self._file.now()))
        try:
            yield
            if kind == COMPUTE and self._cuda and opened[-1].step < len(self._spans):
                torch.cuda.synchronize()
            self._note(opened[-1])
        finally:
            opened.pop()
            if opened:
                opened[-1].since = self._file.now()

    def pause(self) -> None:
        """Something else than training begins: what happens then does not count."""
        self._training = False

    def _opened(self) -> "list[_Opened]":
        """The spans under way in this thread, outermost first."""
        if not hasattr(self._local, "opened"):
            self._local.opened = []
        return self._local.opened

    def _note(self, span: "_Opened") -> None:
        end = self._file.now()
        with self._lock:
            if not self._training:
                return
            self._sums[span.kind, span.block] += end - span.since
            whole = (span.kind, span.block, round(span.since, 6), round(end, 6))
            if not self._open and self.left > 0:
                self._early.append(whole)
            elif self._open and span.step < len(self._spans):
                self._spans[span.step].append(whole)

    def totals(self, epoch: int) -> dict[str, Any]:
        """Seconds of the stretch, which ends: in all, of each wait, and every block's computing and moving."""
        waits = {kind: sum(s for (each, _), s in self._sums.items() if each == kind) for kind in (WAIT, MESSAGE, SEND)}
        seconds, self._training = self._file.now() - self._begun, False
        blocks = {kind: self._per_block(kind) for kind in (COMPUTE, FETCH, WRITE)}
        totals = {"epoch": epoch, "steps": self._steps, "seconds": seconds, **waits, **blocks}
        self._file.write({"event": "totals", **totals})
        return totals

    def close(self) -> None:
        self._file.close()

    def _per_block(self, kind: str) -> dict[str, float]:
        return {str(block): seconds for (each, block), seconds in self._sums.items() if each == kind}
