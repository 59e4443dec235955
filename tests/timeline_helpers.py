"""Synthetic timelines of parallel runs, as the runtime writes them.

The runs are ideal pipelines with time slots of one second: stage s works on step t in slot s + t.
"""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

from blocklocal.timeline import Timeline, read_timeline

START = 1_764_090_000.25
LATE = 0.25  # seconds that each stage starts after the one before it


def header(process: int, blocks: list[int], start: float, stage: int | None = None, replica: int = 0) -> dict[str, Any]:
    return {
        "event": "process",
        "process": process,
        "replica": replica,
        "stage": process if stage is None else stage,
        "blocks": blocks,
        "names": [f"stage{k + 1}.0" for k in blocks],
        "host": "h",
        "pid": 100 + process,
        "threads": 1,
        "device": "cpu",
        "start": start,
    }


def totals(epoch: int, steps: int, seconds: float, compute: dict[str, float], **waits: float) -> dict[str, Any]:
    sums = {"wait": 0.0, "message": 0.0, "send": 0.0, **waits}
    return {"event": "totals", "epoch": epoch, "steps": steps, "seconds": seconds, **sums, "compute": compute}


def spans(stage: int, blocks: list[int], last: bool, slot: float) -> list[list[Any]]:
    """A slot: 0.1 s wait (but for stage 0), the first block's compute, then the last block's around its send."""
    begun: list[list[Any]] = [] if stage == 0 else [["wait", None, slot, slot + 0.1]]
    edges = [slot + 0.1 + 0.4 * k / len(blocks) for k in range(len(blocks) + 1)]
    begun += [["compute", block, edges[k], edges[k + 1]] for k, block in enumerate(blocks)]
    if last:
        return [*begun[:-1], ["compute", blocks[-1], edges[-2], slot + 1.0]]
    return [*begun, ["send", None, slot + 0.5, slot + 0.6], ["compute", blocks[-1], slot + 0.6, slot + 1.0]]


def write_lines(run: Path, process: int, lines: list[dict[str, Any]]) -> Path:
    (run / "timeline").mkdir(parents=True, exist_ok=True)
    path = run / "timeline" / f"process-{process}.jsonl"
    with path.open("a") as file:
        file.write("".join(json.dumps(line) + "\n" for line in lines))
    return path


def write_pipeline(
    run: Path, layout: list[list[int]], steps: range = range(12), *, start: float = START, replicas: int = 1
) -> Path:
    """All processes of one launch, each with its steps and its sums."""
    for replica in range(replicas):
        for stage, blocks in enumerate(layout):
            process, last = replica * len(layout) + stage, stage == len(layout) - 1
            lines = [header(process, blocks, start + LATE * stage, stage, replica)]
            for t, step in enumerate(steps):
                done = spans(stage, blocks, last, t + stage * (1 - LATE))
                lines.append({"event": "step", "step": step, "spans": done})
            n = float(len(steps))
            compute = {str(block): 0.8 * n / len(blocks) for block in blocks}
            lines.append(
                totals(1, len(steps), n, compute, wait=0.1 * n if stage else 0.0, send=0.0 if last else 0.1 * n)
            )
            write_lines(run, process, lines)
    return run


def timeline_of(run: Path) -> Timeline:
    timeline = read_timeline(run)
    assert timeline is not None
    return timeline


def ideal(run: Path) -> Path:
    return write_pipeline(run, [[0], [1], [2]])


def shared(run: Path) -> Path:
    return write_pipeline(run, [[0, 1], [2, 3]])


def replicated(run: Path) -> Path:
    return write_pipeline(run, [[0, 1], [2]], replicas=2)


def resumed(run: Path) -> Path:
    write_pipeline(run, [[0, 1], [2]], range(8))
    return write_pipeline(run, [[0, 1], [2]], range(5, 12), start=START + 7200.123)


def moved(run: Path) -> Path:
    """Resumed in another layout."""
    write_pipeline(run, [[0, 1], [2]], range(8))
    return write_pipeline(run, [[0], [1], [2]], range(5, 12), start=START + 7200.123)


def fine(run: Path) -> Path:
    """Spans that touch at times which no microsecond hits."""
    edges = [k / 3e6 for k in range(61)]
    for process in range(2):
        steps = [["compute", process, a, b] for a, b in pairwise(edges)]
        lines = [{"event": "step", "step": t, "spans": [span]} for t, span in enumerate(steps)]
        write_lines(run, process, [header(process, [process], START + process / 7e6), *lines])
    return run


HEADER = header(0, [0, 1], START)
STEP = {"event": "step", "step": 3, "spans": [["compute", 0, 0.1, 0.2]]}


def streamed_header(blocks: int, visit: int, start: float = START, process: int = 0) -> dict[str, Any]:
    """Of the process that has so many blocks, behind `process` others which have as many."""
    own = range(process * blocks, (process + 1) * blocks)
    return {**header(process, list(own), start), "visit": visit}


def visits(blocks: int, visit: int, begin: float, first: int) -> list[dict[str, Any]]:
    """The steps of one ideal chunk, in which all that is done takes a second, and nobody but the first block waits.

    Block k computes from second 1 + k * visit on; the next one is fetched in the first second of that, and the one
    before is written back.
    """
    steps: list[list[list[Any]]] = [[] for _ in range(visit)]
    end = begin + 1 + blocks * visit
    steps[0] += [["fetch", 0, begin, begin + 1], ["wait", 0, begin, begin + 1]]
    for block in range(blocks):
        own = begin + 1 + block * visit
        for t in range(visit):
            steps[t].append(["compute", block, own + t, own + t + 1])
        steps[0].append(["write", block, own + visit, own + visit + 1])
        if block + 1 < blocks:
            steps[0].append(["fetch", block + 1, own, own + 1])
    steps[0].append(["wait", blocks - 1, end, end + 1])
    return [
        {"event": "step", "step": first + t, "spans": sorted(each, key=lambda s: s[2:])} for t, each in enumerate(steps)
    ]


def write_visits_of_two(run: Path) -> Path:
    """Two processes of two blocks each, in chunks of two steps, which take 6 s; the second is a chunk behind."""
    for process in (0, 1):
        lines = [line for chunk in range(3) for line in visits(2, 2, 6.0 * (chunk + process), 1 + 2 * chunk)]
        for line in lines:
            line["spans"] = [[kind, block + 2 * process, begin, end] for kind, block, begin, end in line["spans"]]
        if process:
            lines[0]["spans"].insert(0, ["wait", None, 0.0, 6.0])
        write_lines(run, process, [streamed_header(2, 2, START, process), *lines])
    return run


def write_visits(run: Path, blocks: int = 3, visit: int = 4, chunks: int = 3, *, start: float = START) -> Path:
    """A run with one block at a time in memory; a chunk takes 2 + blocks * visit seconds."""
    length, lines = 2 + blocks * visit, [streamed_header(blocks, visit, start)]
    for chunk in range(chunks):
        lines += visits(blocks, visit, float(chunk * length), 1 + chunk * visit)
    each = {str(block): float(chunks) for block in range(blocks)}
    sums = totals(1, chunks * visit, float(chunks * length), {k: visit * s for k, s in each.items()}, wait=2.0 * chunks)
    write_lines(run, 0, [*lines, {**sums, "fetch": each, "write": each}])
    return run
