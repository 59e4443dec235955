"""Read the timeline of a run: `timeline/process-<rank>.jsonl` in its run folder, one file per process.

Runs in several processes have one, and runs that have one block at a time in memory. A line is a header (`process`: who
records, and from when), a recorded step (`step`) or sums over all steps of a stretch (`totals`). A header begins a
segment. Files are checked here, once; what comes out is trusted by the trace and the pictures.
"""

import re
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct

from blocklocal._common.errors import InputError
from blocklocal._common.files import MIB, read_bytes
from blocklocal.schemas import NotJson, Seconds, Text, Whole, check, parse
from blocklocal.schemas.kinds import MOST_BLOCKS
from blocklocal.timeline.segments import (
    AHEAD,
    COMPUTE,
    FETCH,
    KINDS,
    WAIT,
    WAITS,
    WRITE,
    Segment,
    Span,
    Step,
    Timeline,
    Totals,
)

MOST = 1024 * MIB


def read_timeline(run: Path) -> Timeline | None:
    """The timeline of a run folder, finished or not; None where it has none.

    A run in one process with all blocks in memory has none.

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
    visit: Whole = 0

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
    """A `totals` event; `compute`, `fetch` and `write` by the number of the block."""

    epoch: Whole
    steps: Whole
    seconds: Seconds
    wait: Seconds
    message: Seconds
    send: Seconds
    compute: dict[Text, Seconds]
    fetch: dict[Text, Seconds] = {}
    write: dict[Text, Seconds] = {}


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
    return Segment(h.process, h.replica, h.stage, blocks, names, h.host, h.pid, h.threads, h.device, h.start, h.visit)


def _step(where: str, record: dict[str, Any], segment: Segment) -> Step:
    read = check(record, _Step, where=where, what="a step with its spans, [kind, block, begin, end] each")
    for span in read.spans:
        _check_block(where, span, segment)
    if not segment.visit:
        _check_order(where, read.spans, segment)
    return Step(read.step, tuple(Span(span.kind, span.block, span.begin, span.end) for span in read.spans))


def _check_block(where: str, span: _Span, segment: Segment) -> None:
    if segment.visit:
        own = (COMPUTE, WAIT, *AHEAD)
        right = span.kind in own if span.block in segment.blocks else span.block is None and span.kind in WAITS
        wanted = f"one of {list(segment.blocks)} for {', '.join(own)}, and null for a wait for another process"
    else:
        right = span.block in segment.blocks if span.kind == COMPUTE else span.block is None and span.kind in WAITS
        wanted = f"one of {list(segment.blocks)} for {COMPUTE}, and null for a wait"
    if not right:
        raise InputError(f"{where}: the block of a {span.kind} span is {span.block}. Expected {wanted}.")


def _check_order(where: str, spans: list[_Span], segment: Segment) -> None:
    """Of a process that holds all its blocks: it does one thing after the other."""
    clock = max((span.end for step in segment.steps[-1:] for span in step.spans), default=0.0)
    for span in spans:
        if span.begin < clock:
            raise InputError(
                f"{where}: the {span.kind} span from {span.begin} s begins before the span before it ends ({clock} s). "
                "Expected the spans of a process one after the other."
            )
        clock = span.end


def _totals(where: str, record: dict[str, Any], blocks: tuple[int, ...]) -> Totals:
    read = check(record, _Sums, where=where, what="the sums of an epoch, in seconds")
    compute = _per_block(where, COMPUTE, read.compute, blocks)
    fetch, write = (_per_block(where, key, sums, blocks) for key, sums in ((FETCH, read.fetch), (WRITE, read.write)))
    return Totals(read.epoch, read.steps, read.seconds, read.wait, read.message, read.send, compute, fetch, write)


def _per_block(where: str, key: str, sums: dict[str, float], blocks: tuple[int, ...]) -> dict[int, float]:
    known = {str(block): block for block in blocks}
    strange = sorted(set(sums) - set(known))
    if strange:
        raise InputError(f"{where}: {key} has {strange[0]!r}. Expected seconds for each of the blocks {list(blocks)}.")
    return {block: sums.get(name, 0.0) for name, block in known.items()}
