"""Read the timeline of a parallel run: `timeline/process-<rank>.jsonl` in its run folder, one file per process.

A line is a header (`process`: who records, and from when), a recorded step (`step`) or sums over all steps of a
stretch (`totals`). A header begins a *segment*; every resume appends another one. The segments that the processes began
together are a *launch*. Files are checked here, once; what comes out is trusted by the trace and the pictures.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct

from blocklocal._common.errors import InputError
from blocklocal._common.files import MIB, read_bytes
from blocklocal.schemas import NotJson, Seconds, Text, Whole, check, parse
from blocklocal.schemas.kinds import MOST_BLOCKS

WAITS = {
    "wait": "waits for the forward message",
    "message": "waits for the late backward message",
    "send": "waits for room in the queue",
}
KINDS = (*WAITS, "compute")
MOST = 1024 * MIB


@dataclass(frozen=True)
class Span:
    """What a process did for a while.

    Attributes:
        kind: "compute" (forward, local loss, backward and update of a block), or a wait: "wait" (for the forward
            message of the block before), "message" (for the late backward message of the block after) or "send" (for
            room in the queue to the block after).
        block: counted from 0; None for a wait.
        begin, end: seconds since the start of the segment.
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

        A new launch begins where a replica would have one of its blocks twice, or a process would be there twice: this
        holds for a run that is resumed in another number of processes too.
        """
        launches: list[list[Segment]] = []
        taken: set[tuple[object, int]] = set()
        for segment in self.segments:
            own: set[tuple[object, int]] = {(segment.replica, block) for block in segment.blocks}
            own.add(("process", segment.process))
            if not launches or own & taken:
                launches.append([])
                taken = set()
            launches[-1].append(segment)
            taken |= own
        return [sorted(launch, key=lambda segment: segment.process) for launch in launches]


def read_timeline(run: Path) -> Timeline | None:
    """The timeline of a run folder, finished or not; None where it has none, as a run in one process.

    A line that a kill cut short is left out, with a warning.

    Raises:
        InputError: a line is damaged; the message names file and line, what it holds and what is expected.
    """
    segments: list[Segment] = []
    warnings: list[str] = []
    for path in (Path(run) / "timeline").glob("process-*.jsonl"):
        rank = re.fullmatch(r"process-(\d+)\.jsonl", path.name)
        if rank:
            segments += _read_process(path, int(rank[1]), warnings)
    ordered = sorted(segments, key=lambda segment: (segment.start, segment.process))
    return Timeline(ordered, sorted(warnings)) if ordered else None


class _Header(Struct):
    """A `process` event."""

    process: Whole
    replica: Whole
    stage: Whole
    blocks: Annotated[list[Whole], Meta(min_length=1, max_length=MOST_BLOCKS)]
    names: list[Text]
    pid: Whole
    threads: Whole
    start: Seconds
    host: Text = ""
    device: Text = ""

    def __post_init__(self) -> None:
        if len(set(self.blocks)) < len(self.blocks) or max(self.blocks) >= MOST_BLOCKS:
            raise ValueError(f"blocks must be different numbers of blocks, from 0, not {self.blocks[:20]}")
        if len(self.names) != len(self.blocks):
            raise ValueError(f"names must be a list of {len(self.blocks)}, one per block, not of {len(self.names)}")


class _Span(Struct, array_like=True, forbid_unknown_fields=True):
    """[kind, block, begin, end]."""

    kind: Text
    block: Whole | None
    begin: Seconds
    end: Seconds

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"its kind must be one of {', '.join(KINDS)}, not {self.kind[:20]!r}")
        if self.end < self.begin:
            raise ValueError(f"it ends before it begins ({self.end} s, {self.begin} s)")


class _Step(Struct):
    """A `step` event."""

    step: Whole
    spans: list[_Span]


class _Sums(Struct):
    """A `totals` event; `compute` by the number of the block."""

    epoch: Whole
    steps: Whole
    seconds: Seconds
    wait: Seconds
    message: Seconds
    send: Seconds
    compute: dict[Text, Seconds]


def _read_process(path: Path, rank: int, warnings: list[str]) -> list[Segment]:
    segments: list[Segment] = []
    for number, record in _records(path, warnings):
        where = f"{path} line {number}"
        event = record.get("event")
        if event == "process":
            segments.append(_segment(where, record, rank))
        elif not segments:
            raise InputError(f"{where} is not of event 'process'. Expected the header of the process.")
        elif event == "step":
            segments[-1].steps.append(_step(where, record, segments[-1]))
        elif event == "totals":
            segments[-1].totals.append(_totals(where, record, segments[-1].blocks))
    return segments


def _records(path: Path, warnings: list[str]) -> list[tuple[int, dict[str, Any]]]:
    """(line number, object) of every line, but for those that a kill cut short."""
    lines = read_bytes(path, what="one JSON object a line", most=MOST).split(b"\n")
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
        record = parse(line)
    except NotJson:
        return None
    return record if isinstance(record, dict) else None


def _segment(where: str, record: dict[str, Any], rank: int) -> Segment:
    h = check(record, _Header, where=where, what="the header of a process")
    if h.process != rank:
        raise InputError(f"{where}: process is {h.process}. Expected {rank}, the number in the name of the file.")
    blocks, names = tuple(h.blocks), tuple(h.names)
    return Segment(h.process, h.replica, h.stage, blocks, names, h.host, h.pid, h.threads, h.device, h.start)


def _step(where: str, record: dict[str, Any], segment: Segment) -> Step:
    read = check(record, _Step, where=where, what="a step with its spans, [kind, block, begin, end] each")
    clock = max((span.end for step in segment.steps[-1:] for span in step.spans), default=0.0)
    for span in read.spans:
        if span.block not in segment.blocks if span.kind == "compute" else span.block is not None:
            raise InputError(
                f"{where}: the block of a {span.kind} span is {span.block}. Expected one of {list(segment.blocks)} for "
                "compute, and null for a wait."
            )
        if span.begin < clock:
            raise InputError(
                f"{where}: the {span.kind} span from {span.begin} s begins before the span before it ends ({clock} s). "
                "Expected the spans of a process one after the other."
            )
        clock = span.end
    return Step(read.step, tuple(Span(span.kind, span.block, span.begin, span.end) for span in read.spans))


def _totals(where: str, record: dict[str, Any], blocks: tuple[int, ...]) -> Totals:
    read = check(record, _Sums, where=where, what="the sums of an epoch, in seconds")
    known = {str(block): block for block in blocks}
    strange = sorted(set(read.compute) - set(known))
    if strange:
        raise InputError(
            f"{where}: compute has {strange[0]!r}. Expected seconds for each of the blocks {list(blocks)}."
        )
    per_block = {block: read.compute.get(key, 0.0) for key, block in known.items()}
    return Totals(read.epoch, read.steps, read.seconds, read.wait, read.message, read.send, per_block)
