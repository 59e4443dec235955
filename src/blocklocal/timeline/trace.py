"""The recorded steps as a trace in Chrome's event format, which ui.perfetto.dev and chrome://tracing open.

Every process of the run is a process of the trace, with a thread for what it computes and one for its waits; arrows
lead from the computing that sent a forward message to the computing that took it. Where one block at a time is in
memory, a thread for fetching and one for writing back come in addition; there are no arrows within a process. Times are
kept in whole nanoseconds, so that rounding cannot make two spans overlap; the format counts in microseconds.
Format: Trace Event Format, https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from blocklocal._common.errors import InputError
from blocklocal._common.written import signed_json, write_file
from blocklocal.schemas.run import check_run_folder
from blocklocal.timeline.read import read_timeline
from blocklocal.timeline.segments import COMPUTE, FETCH, WAITS, WRITE, Segment, Span, Timeline

Event = dict[str, Any]
COMPUTING, WAITING, FETCHING, WRITING = 1, 2, 3, 4
THREADS = {COMPUTING: "computing", WAITING: "waiting"}
THREADS_AHEAD = {FETCHING: "fetching", WRITING: "writing back"}
OF_KIND = {COMPUTE: COMPUTING, FETCH: FETCHING, WRITE: WRITING}
PAUSE = 1.0  # seconds left between two launches: the hours a run was stopped would hide the rest


def write_trace(run: Path, output: Path | None = None, *, overwrite: bool = False) -> tuple[Path, int]:
    """Write the trace of a run folder, whole or not at all.

    Args:
        output: default: `trace.json` in the run folder.
        overwrite: replace an `output` that is not ours (see `written`).

    Returns:
        Its path, and how many spans and arrows it has.

    Raises:
        InputError: there is no run folder, no timeline in it, no step recorded yet, or another file at `output`.
    """
    run = Path(run)
    check_run_folder(run)
    timeline = read_timeline(run)
    if timeline is None:
        raise InputError(
            f"{run} has no timeline: it ran in one process with all blocks in memory. Train with --processes 2 or "
            "more, or with --visit N, to have one."
        )
    if not any(segment.steps for segment in timeline.segments):
        raise InputError(f"no step is recorded in {run / 'timeline'} yet. Let the run do its first steps.")
    path = Path(output) if output is not None else run / "trace.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    events = trace_events(timeline)
    content = signed_json({"traceEvents": events, "displayTimeUnit": "ms"}, ensure_ascii=False)
    write_file(path, content, overwrite=overwrite or output is None)
    return path, sum(event["ph"] in "Xs" for event in events)


def trace_events(timeline: Timeline) -> list[Event]:
    """Names first, then spans and arrows, sorted by time (`ts`, microseconds since the first recorded span).

    The launches of a resumed run follow each other with a pause of one second, whatever time lay between them.
    """
    # From 1: viewers treat process 0 as the idle task of Linux.
    places = sorted({segment.place for segment in timeline.segments})
    pids = {place: number for number, place in enumerate(places, 1)}
    named = {segment.place: segment for segment in timeline.segments}
    events: list[tuple[int, int, Event]] = []
    shift = 0.0
    for launch in timeline.launches:
        clocks, length = _clocks(launch)
        moved = {place: clock + shift for place, clock in clocks.items()}
        for segment in launch:
            events += _spans(segment, pids[segment.place], moved[segment.place])
        for sender, receiver in _neighbours(launch):
            events += _arrows(sender, receiver, pids, moved)
        shift += length + PAUSE if length else 0.0
    # At equal times the spans come first: an arrow is bound to the span that is open when it is read.
    ordered = sorted(events, key=lambda event: event[:2])
    return [*_names(named, pids), *_numbered(ordered)]


def _clocks(launch: list[Segment]) -> tuple[dict[Any, float], float]:
    """What to add to the times of each process so that the first recorded span is at 0, and when the last one ends."""
    start = min(segment.start for segment in launch)
    spans = [(segment.start - start, span) for segment in launch for step in segment.steps for span in step.spans]
    first = min((late + span.begin for late, span in spans), default=0.0)
    last = max((late + span.end for late, span in spans), default=0.0)
    return {segment.place: segment.start - start - first for segment in launch}, last - first


def _spans(segment: Segment, pid: int, clock: float) -> Iterator[tuple[int, int, Event]]:
    names = dict(zip(segment.blocks, segment.names, strict=True))
    for step in segment.steps:
        for span in step.spans:
            begin, end = _nanoseconds(span.begin + clock), _nanoseconds(span.end + clock)
            args: dict[str, Any] = {"step": step.step}
            if span.block is not None:
                args |= {"block": span.block + 1, "layers": names[span.block]}
            event = {
                "name": _called(span),
                "cat": span.kind,
                "ph": "X",
                "ts": begin / 1000,
                "dur": (end - begin) / 1000,
            }
            thread = OF_KIND.get(span.kind, WAITING)
            yield begin, 0, {**event, "pid": pid, "tid": _thread(pid, thread), "args": args}


def _called(span: Span) -> str:
    if span.block is None:
        return WAITS[span.kind]
    return ("waits for " if span.kind in WAITS else "") + f"block {span.block + 1}"


def _neighbours(launch: list[Segment]) -> list[tuple[Segment, Segment]]:
    placed = {(segment.replica, segment.stage): segment for segment in launch}
    pairs = [(segment, placed.get((segment.replica, segment.stage + 1))) for segment in launch]
    return [(sender, receiver) for sender, receiver in pairs if receiver is not None]


def _arrows(
    sender: Segment, receiver: Segment, pids: dict[Any, int], clocks: dict[Any, float]
) -> Iterator[tuple[int, int, Event]]:
    """An arrow per step that both recorded; none where the clocks of two hosts disagree by more than a step."""
    sent, taken = _first_spans(sender, max(sender.blocks)), _first_spans(receiver, min(receiver.blocks))
    for step in sorted(sent.keys() & taken.keys()):
        begin, end = (_nanoseconds(t + clocks[sender.place]) for t in (sent[step].begin, sent[step].end))
        arrival = _nanoseconds(taken[step].begin + clocks[receiver.place])
        # The message left before the receiver began, and from inside of the span, where a viewer looks for it.
        departure = min(end - 1, arrival)
        if departure < begin:
            continue
        for phase, time, segment in (("s", departure, sender), ("f", arrival, receiver)):
            pid = pids[segment.place]
            event = {"name": "forward message", "cat": "message", "ph": phase, "ts": time / 1000, "pid": pid}
            arrow = (sender.place, sender.start, step)
            bound = {"bp": "e"} if phase == "f" else {}
            yield time, 1 if phase == "s" else 2, {**event, "tid": _thread(pid, COMPUTING), "id": arrow, **bound}


def _first_spans(segment: Segment, block: int) -> dict[int, Span]:
    """Per step, the first span in which `block` computes: the message arrives before it and leaves after it."""
    found = {}
    for step in segment.steps:
        own = [span for span in step.spans if span.block == block and span.kind == COMPUTE]
        if own:
            found[step.step] = own[0]
    return found


def _numbered(events: list[tuple[int, int, Event]]) -> Iterator[Event]:
    """Arrows get whole numbers as ids: viewers read nothing else."""
    numbers: dict[Any, int] = {}
    for _, _, event in events:
        if "id" in event:
            event["id"] = numbers.setdefault(event["id"], len(numbers) + 1)
        yield event


def _names(segments: dict[Any, Segment], pids: dict[Any, int]) -> Iterator[Event]:
    for place, segment in segments.items():
        pid = pids[place]
        threads = f"{segment.threads} thread{'s' if segment.threads != 1 else ''}"
        yield _name("process_name", pid, {"name": process_name(segment)})
        visits = f", visits of {segment.visit} steps" if segment.visit else ""
        yield _name("process_labels", pid, {"labels": f"{segment.device}, {threads}{visits}"})
        yield _name("process_sort_index", pid, {"sort_index": pid})
        for thread, name in (THREADS | (THREADS_AHEAD if segment.visit else {})).items():
            yield {**_name("thread_name", pid, {"name": name}), "tid": _thread(pid, thread)}
            yield {**_name("thread_sort_index", pid, {"sort_index": thread}), "tid": _thread(pid, thread)}


def process_name(segment: Segment) -> str:
    """`process 0 · blocks 1–2 · host`, blocks counted from 1."""
    first, last = min(segment.blocks) + 1, max(segment.blocks) + 1
    blocks = f"block {first}" if first == last else f"blocks {first}–{last}"
    return f"process {segment.process} · {blocks} · {segment.host}"


def _name(kind: str, pid: int, args: dict[str, Any]) -> Event:
    return {"name": kind, "ph": "M", "pid": pid, "args": args}


def _thread(pid: int, thread: int) -> int:
    """A number that no other process of the trace has either: viewers look threads up by it."""
    return 100 * pid + thread


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)
