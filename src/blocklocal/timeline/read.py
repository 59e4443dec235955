"""Read the timeline of a parallel run: `timeline/process-<rank>.jsonl` in its run folder, one file per process.

A line is a header (`process`: who records, and from when), a recorded step (`step`) or sums over all steps of a
stretch (`totals`). A header begins a *segment*; every resume appends another one. The segments that the processes began
together are a *launch*. Files are checked here, once; what comes out is trusted by the trace and the pictures.
"""

import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blocklocal.errors import InputError

WAITS = {
    "wait": "waits for the forward message",
    "message": "waits for the late backward message",
    "send": "waits for room in the queue",
}
KINDS = (*WAITS, "compute")


@dataclass(frozen=True)
class Span:
    """What a process did from `begin` to `end` (seconds since the start of its segment).

    `kind` is "compute" (forward, local loss, backward and update of `block`, counted from 0), or a wait, with no block:
    "wait" (for the forward message of the block before), "message" (for the late backward message of the block after)
    or "send" (for room in the queue to the block after).
    """

    kind: str
    block: int | None
    begin: float
    end: float


@dataclass(frozen=True)
class Step:
    """One recorded step: its spans, in order of time and without overlap."""

    step: int
    spans: tuple[Span, ...]


@dataclass(frozen=True)
class Totals:
    """Sums over all `steps` of a stretch, recorded or not, in seconds; `compute` has an entry per block."""

    epoch: int
    steps: int
    seconds: float
    wait: float
    message: float
    send: float
    compute: dict[int, float]


@dataclass(frozen=True)
class Segment:
    """One process from a start (Unix seconds) to its end or the next resume; blocks count from 0."""

    process: int
    replica: int
    stage: int
    blocks: tuple[int, ...]
    names: tuple[str, ...]
    host: str
    pid: int
    threads: int
    device: str
    start: float
    steps: list[Step] = field(default_factory=list)
    totals: list[Totals] = field(default_factory=list)

    @property
    def place(self) -> tuple[int, int, int, tuple[int, ...]]:
        """What stays when a run is resumed in the same layout."""
        return self.process, self.replica, self.stage, self.blocks


@dataclass(frozen=True)
class Timeline:
    """All segments of a run, oldest first, and what was left out in reading them."""

    segments: list[Segment]
    warnings: list[str]

    @property
    def launches(self) -> list[list[Segment]]:
        """The segments begun together, oldest launch first, each in the order of processes.

        A new launch begins where a replica would have one of its blocks twice: this holds for a run that is resumed in
        another number of processes too.
        """
        launches: list[list[Segment]] = []
        taken: set[tuple[int, int]] = set()
        for segment in self.segments:
            own = {(segment.replica, block) for block in segment.blocks}
            if not launches or own & taken:
                launches.append([])
                taken = set()
            launches[-1].append(segment)
            taken |= own
        return [sorted(launch, key=lambda segment: segment.process) for launch in launches]


def read_timeline(run: Path) -> Timeline | None:
    """The timeline of a run folder, finished or not; None where it has none, as a run in one process.

    A line that a kill cut short is left out, with a warning. Raises `InputError` naming file and line where one is
    damaged, what it holds and what is expected.
    """
    segments: list[Segment] = []
    warnings: list[str] = []
    for path in (Path(run) / "timeline").glob("process-*.jsonl"):
        rank = re.fullmatch(r"process-(\d+)\.jsonl", path.name)
        if rank:
            segments += _read_process(path, int(rank[1]), warnings)
    ordered = sorted(segments, key=lambda segment: (segment.start, segment.process))
    return Timeline(ordered, sorted(warnings)) if ordered else None


def _read_process(path: Path, rank: int, warnings: list[str]) -> list[Segment]:
    segments: list[Segment] = []
    for number, record in _records(path, warnings):
        where = f"{path} line {number}"
        event = record.get("event")
        if event == "process":
            segments.append(_segment(where, record, rank))
        elif not segments:
            raise InputError(f"{where} is of event {event!r}. Expected the header of the process (event 'process').")
        elif event == "step":
            segments[-1].steps.append(_step(where, record, segments[-1]))
        elif event == "totals":
            segments[-1].totals.append(_totals(where, record, segments[-1].blocks))
    return segments


def _records(path: Path, warnings: list[str]) -> list[tuple[int, dict[str, Any]]]:
    """(line number, object) of every line, but for those that a kill cut short."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error}). Expected one JSON object a line.") from None
    parsed = [_parse(line) for line in lines]
    records = []
    for i, (line, record) in enumerate(zip(lines, parsed, strict=True)):
        following = parsed[i + 1] if i + 1 < len(lines) else None
        # A process that was killed leaves half a line, at the end or before the header of the next segment.
        cut = i + 1 == len(lines) or (following is not None and following.get("event") == "process")
        if record is not None:
            records.append((i + 1, record))
        elif line.strip() and cut:
            warnings.append(
                f"line {i + 1} of timeline/{path.name} is cut short and was left out (the run was stopped there)"
            )
        elif line.strip():
            raise InputError(f"{path} is damaged at line {i + 1}. Expected one JSON object a line; delete that line.")
    return records


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _segment(where: str, record: dict[str, Any], rank: int) -> Segment:
    process, replica, stage, pid = (_whole(where, record, key) for key in ("process", "replica", "stage", "pid"))
    if process != rank:
        raise InputError(f"{where}: process is {process}. Expected {rank}, the number in the name of the file.")
    blocks, names = record.get("blocks"), record.get("names")
    if not isinstance(blocks, list) or not blocks or not all(_is_whole(k) for k in blocks):
        raise InputError(f"{where}: blocks is {blocks!r}. Expected a list of block numbers, from 0.")
    if not isinstance(names, list) or len(names) != len(blocks):
        raise InputError(f"{where}: names is {names!r}. Expected a list of {len(blocks)}, one per block.")
    host, device = (str(record.get(key, "")) for key in ("host", "device"))
    threads, start = _whole(where, record, "threads"), _seconds(where, record, "start")
    named = tuple(str(name) for name in names)
    return Segment(process, replica, stage, tuple(blocks), named, host, pid, threads, device, start)


def _step(where: str, record: dict[str, Any], segment: Segment) -> Step:
    spans = record.get("spans")
    if not isinstance(spans, list):
        raise InputError(f"{where}: spans is {spans!r}. Expected a list of [kind, block, begin, end].")
    checked = tuple(_span(where, span, segment.blocks) for span in spans)
    clock = max((span.end for step in segment.steps[-1:] for span in step.spans), default=0.0)
    for span in checked:
        if span.begin < clock:
            raise InputError(
                f"{where}: the {span.kind} span from {span.begin} s begins before the span before it ends ({clock} s). "
                "Expected the spans of a process one after the other."
            )
        clock = span.end
    return Step(_whole(where, record, "step"), checked)


def _span(where: str, span: Any, blocks: tuple[int, ...]) -> Span:
    expected = f"[kind, block, begin, end] with a kind of {', '.join(KINDS)}, block null or one of {list(blocks)}"
    if not isinstance(span, list) or len(span) != 4 or span[0] not in KINDS:
        raise InputError(f"{where}: a span is {span!r}. Expected {expected}.")
    kind, block, begin, end = span
    if block not in blocks if kind == "compute" else block is not None:
        raise InputError(f"{where}: the block of the span {span!r} is {block!r}. Expected {expected}.")
    if not _is_seconds(begin) or not _is_seconds(end) or end < begin:
        raise InputError(f"{where}: the span {span!r} ends before it begins, or at no time. Expected seconds.")
    return Span(kind, block, float(begin), float(end))


def _totals(where: str, record: dict[str, Any], blocks: tuple[int, ...]) -> Totals:
    compute = record.get("compute")
    known = {str(block): block for block in blocks}
    if not isinstance(compute, dict) or not set(compute) <= set(known) or not all(map(_is_seconds, compute.values())):
        raise InputError(f"{where}: compute is {compute!r}. Expected seconds for each of the blocks {list(blocks)}.")
    epoch, steps = _whole(where, record, "epoch"), _whole(where, record, "steps")
    seconds, wait, message, send = (_seconds(where, record, key) for key in ("seconds", *WAITS))
    per_block = {block: float(compute.get(key, 0.0)) for key, block in known.items()}
    return Totals(epoch, steps, seconds, wait, message, send, per_block)


def _whole(where: str, record: dict[str, Any], key: str) -> int:
    value = record.get(key)
    if not _is_whole(value):
        raise InputError(f"{where}: {key} is {value!r}. Expected a whole number of at least 0.")
    return value  # type: ignore[return-value]


def _seconds(where: str, record: dict[str, Any], key: str) -> float:
    value = record.get(key)
    if not _is_seconds(value):
        raise InputError(f"{where}: {key} is {value!r}. Expected seconds, a number of at least 0.")
    return float(value)  # type: ignore[arg-type]


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_seconds(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
