"""The picture of a run that has one block at a time in memory: every block takes the same steps in a row.

A lane per block, a colour per step. What is done in other threads, fetching and writing back, is hatched.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import TYPE_CHECKING, Any

from blocklocal.report.lanes import (
    BUSY_AT,
    EDGE,
    HATCHES,
    IDLE_AT,
    LANE,
    THICK,
    WAIT_STYLE,
    WIDTH,
    Box,
    Lane,
    boxes,
    draw_step,
    lanes_of,
    percent,
    unit_of,
    write_beside,
)
from blocklocal.timeline.idle import Shares
from blocklocal.timeline.segments import AHEAD, COMPUTE, FETCH, WAIT, WAITS, WRITE, Segment, Span, Step

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

TALLEST = 5.6  # inches: all lanes together
NAMED = 0.19  # inches: lanes thinner than this are not all named
PLAIN = 8  # blocks; with more, two visits are drawn again, larger
NARROW = 0.002  # of the width: steps narrower than this are one box together
FINE = 0.01  # of the width: boxes narrower than this have no edge
WAITING = "computing waits for a block"
STYLES: dict[str, dict[str, Any]] = {
    AHEAD[FETCH]: {"facecolor": "#dbe9f6", "edgecolor": "#3b6ea5", "hatch": "\\\\\\\\", "linewidth": 0.0},
    AHEAD[WRITE]: {"facecolor": "#fbe3d0", "edgecolor": "#a8571b", "hatch": "....", "linewidth": 0.0},
    WAITING: WAIT_STYLE,
    **{label: {**WAIT_STYLE, "hatch": HATCHES[kind]} for kind, label in WAITS.items()},
}
"""By the words of the legend."""
Placed = tuple[Span, Box]


@dataclass(frozen=True)
class Part:
    """What a panel shows: some blocks, and a while in Unix seconds."""

    lanes: Sequence[Lane]
    begin: float
    end: float
    title: str = ""


def drawn_chunk(segment: Segment) -> list[Step]:
    """A chunk of steps from the middle of those that are recorded whole; an empty list where there is none."""
    chunks = segment.chunks
    whole = [chunk for chunk in chunks if len(chunk) == max(map(len, chunks))]
    return whole[len(whole) // 2] if whole else []


def visits_figure(launch: Sequence[Segment], steps: Sequence[int], known: Mapping[int, Shares | None]) -> "Figure":
    """One chunk of steps, which every block takes in its visit; with many blocks, two visits again, larger."""
    from matplotlib.figure import Figure

    parts = [_whole(launch, steps)]
    if len(parts[0].lanes) > PLAIN:
        parts.append(_two_visits(parts[0].lanes, steps))
    heights = [min(TALLEST, LANE * (part.lanes[-1].y + 1)) for part in parts]
    figure = Figure(figsize=(WIDTH, sum(heights) + 0.7 * len(parts) + 0.4), layout="constrained")
    panels = figure.subplots(len(parts), 1, squeeze=False, height_ratios=heights)[:, 0]
    seen = set()
    for axes, part, height in zip(panels, parts, heights, strict=True):
        seen |= _draw(axes, part)
        _name(axes, part.lanes, height)
    panels[-1].set_xlabel(panels[-1].get_xlabel() + "; the numbers in the boxes are steps")
    _write_shares(panels[0], parts[0].lanes, known, small=heights[0] < NAMED * len(parts[0].lanes))
    legend = _legend(seen)
    if legend:
        columns = min(len(legend), 3)
        figure.legend(handles=legend, ncols=columns, loc="outside lower center", frameon=False, fontsize=9)
    return figure


# --- what is drawn


def _spans(segment: Segment, steps: Sequence[int]) -> list[tuple[Span, float, float]]:
    """The spans of these steps, each with its begin and end in Unix seconds."""
    found = [span for step in segment.steps if step.step in steps for span in step.spans]
    return [(span, segment.start + span.begin, segment.start + span.end) for span in found]


def _whole(launch: Sequence[Segment], steps: Sequence[int]) -> Part:
    times = [time for segment in launch for _, *both in _spans(segment, steps) for time in both]
    return Part(lanes_of(launch), min(times, default=0.0), max(times, default=1.0))


def _two_visits(lanes: Sequence[Lane], steps: Sequence[int]) -> Part:
    """From a middle block's first computing to the end of the next one's, with all blocks that are in memory then."""
    segment = lanes[0].segment
    middle = segment.blocks[(len(segment.blocks) - 1) // 2]
    own = [each for each in _spans(segment, steps) if each[0].kind == COMPUTE and each[0].block in (middle, middle + 1)]
    begin, end = min((begin for _, begin, _ in own), default=0.0), max((end for _, _, end in own), default=1.0)
    there = [lane for lane in lanes if any(_placed(lane, each.spans, begin, end) for each in lane.segment.steps)]
    moved = [replace(lane, y=float(y)) for y, lane in enumerate(there)]
    return Part(moved, begin, end, f"blocks {middle + 1} and {middle + 2}, larger: ")


def _placed(lane: Lane, spans: Sequence[Span], begin: float, end: float, scale: float = 1.0) -> list[Placed]:
    """What is done with the lane's block in this while."""
    own = [span for span in spans if span.block == lane.block and span.kind != WAIT]
    return boxes(own, lane.segment.start - begin, scale, (end - begin) * scale)


# --- drawing


def _draw(axes: "Axes", part: Part) -> set[str]:
    """Everything in the panel; returns the words for what is there beside computing."""
    unit, scale = unit_of(part.end - part.begin)
    axes.set_xlim(0, (part.end - part.begin) * scale)
    axes.set_ylim(part.lanes[-1].y + 0.55, -0.55)
    seen = set()
    for segment in {id(lane.segment): lane.segment for lane in part.lanes}.values():
        seen |= _draw_waits(axes, part, segment, scale)
    visits = []
    for lane in part.lanes:
        for chunk in lane.segment.chunks:
            placed = [(step.step, _placed(lane, step.spans, part.begin, part.end, scale)) for step in chunk]
            for kind, words in AHEAD.items():
                found = [box for _, each in placed for box in _of(kind, each)]
                axes.broken_barh(found, (lane.y - THICK / 2, THICK), **STYLES[words])
                seen |= {words} if found else set()
            visits.append((lane.y, [(step, found) for step, each in placed if (found := _of(COMPUTE, each))]))
    widths = [width for _, steps in visits for _, found in steps for _, width in found]
    for y, steps in visits:
        _draw_visit(axes, y, steps, sum(widths) / max(1, len(widths)) / axes.get_xlim()[1])
    axes.set_xlabel(f"{part.title}time ({unit})")
    axes.spines[["top", "right", "left"]].set_visible(False)
    return seen


def _draw_waits(axes: "Axes", part: Part, segment: Segment, scale: float) -> set[str]:
    """While computing waits, no block of its process computes: bands across their lanes, behind what is done then."""
    spans = [span for step in segment.steps for span in step.spans if span.kind in WAITS]
    placed = boxes(spans, segment.start - part.begin, scale, axes.get_xlim()[1])
    ys = [lane.y for lane in part.lanes if lane.segment is segment]
    named = [(WAITING if span.block is not None else WAITS[span.kind], box) for span, box in placed]
    for words in {words for words, _ in named}:
        found = [box for each, box in named if each == words]
        axes.broken_barh(found, (min(ys) - THICK / 2, max(ys) - min(ys) + THICK), zorder=0.5, **STYLES[words])
    return {words for words, _ in named}


def _of(kind: str, placed: Sequence[Placed]) -> list[Box]:
    return [box for span, box in placed if span.kind == kind]


def _draw_visit(axes: "Axes", y: float, steps: Sequence[tuple[int, Sequence[Box]]], width: float) -> None:
    """The steps of one visit, or one box where they could not be told apart.

    Args:
        width: of the boxes of the panel, on average, in parts of its width.
    """
    names: dict[int, str] = {}
    if steps and width < NARROW:
        edges = [edge for _, placed in steps for left, width in placed for edge in (left, left + width)]
        (first, _), (last, _) = steps[0], steps[-1]
        steps, names = [(first, [(min(edges), max(edges) - min(edges))])], {first: f"{first}–{last}"}
    for step, placed in steps:
        draw_step(axes, y, step, placed, names.get(step), edge=EDGE if width >= FINE else 0.0)


# --- words beside the lanes


def _several(lanes: Sequence[Lane]) -> bool:
    return len({lane.segment.process for lane in lanes}) > 1


def _name(axes: "Axes", lanes: Sequence[Lane], height: float) -> None:
    """The names of the blocks, all of them where there is room."""
    shown = lanes[:: ceil(NAMED * len(lanes) / height)]
    names = [f"block {lane.block + 1}" for lane in shown]
    if _several(lanes):
        names = [
            f"process {lane.segment.process} · {name}" if lane.block == lane.segment.blocks[0] else name
            for lane, name in zip(shown, names, strict=True)
        ]
    axes.set_yticks([lane.y for lane in shown], names, fontsize=9)
    axes.tick_params(axis="y", length=0)


def _write_shares(axes: "Axes", lanes: Sequence[Lane], known: Mapping[int, Shares | None], *, small: bool) -> None:
    """At the right: the share in which each block computes, and once per process that in which computing waits."""
    write_beside(axes, IDLE_AT, -0.8, "idle", weight="bold")
    if not small:
        write_beside(axes, BUSY_AT, -0.8, "busy")
    for lane in lanes:
        segment, found = lane.segment, known[lane.segment.process]
        if lane.block == segment.blocks[0]:
            centre = lane.y + (len(segment.blocks) - 1) / 2
            write_beside(axes, IDLE_AT, centre, percent(found.idle if found else None), weight="bold")
        if not small:
            write_beside(axes, BUSY_AT, lane.y, percent(found.busy[lane.block] if found else None))


def _legend(seen: set[str]) -> "list[Patch]":
    from matplotlib.patches import Patch

    return [Patch(label=words, **style) for words, style in STYLES.items() if words in seen]
