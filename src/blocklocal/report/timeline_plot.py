"""The picture of a parallel run: consecutive batches in the hands of different blocks at the same time.

A lane per block, lanes of one process together; a colour per step, so that the eye follows one batch from block to
block.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from blocklocal.report.drawing import own_style
from blocklocal.report.lanes import (
    BUSY_AT,
    HATCHES,
    IDLE_AT,
    LANE,
    TALLEST,
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
from blocklocal.report.visits_plot import drawn_chunk, visits_figure
from blocklocal.timeline.idle import Shares, shares
from blocklocal.timeline.segments import WAITS, Segment, Span, Timeline

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

STEPS = 10  # consecutive steps in the picture


@own_style()
def timeline_figure(timeline: Timeline) -> "Figure | None":
    """Up to ten consecutive steps from the middle of the last launch of which every process recorded some.

    None where no step was recorded by all of them. Beside the lanes: the share of the training time in which the block
    computes (busy), and in which its process waits for another one (idle), over all steps (`Shares`). Of a run that has
    one block at a time in memory, one chunk of steps is drawn.
    """
    from matplotlib.figure import Figure

    launch, steps = drawn_steps(timeline)
    if not steps:
        return None
    if launch[0].visit:
        return visits_figure(launch, steps, shares(timeline, launch))
    lanes = lanes_of(launch)
    height = min(TALLEST, LANE * (lanes[-1].y + 1))
    figure = Figure(figsize=(WIDTH, height + 1.1), layout="constrained")
    axes = figure.subplots()
    begin, end = _window(launch, steps)
    unit, scale = unit_of(end - begin)
    axes.set_xlim(0, (end - begin) * scale)
    axes.set_ylim(lanes[-1].y + 0.55, -0.55)
    kinds = _draw(axes, lanes, begin, scale)
    _label(axes, lanes, shares(timeline, launch), small=height < LANE * len(lanes) * 0.7)
    axes.set_xlabel(f"time ({unit}); the numbers in the boxes are steps")
    axes.spines[["top", "right", "left"]].set_visible(False)
    if kinds:
        figure.legend(handles=kinds, ncols=len(kinds), loc="outside lower center", frameon=False, fontsize=9)
    return figure


def drawn_steps(timeline: Timeline) -> tuple[list[Segment], list[int]]:
    """The launch to draw, and the steps: from the middle of the longest stretch that all its processes recorded.

    Where one block at a time is in memory, the steps are those of one chunk.
    """
    for launch in reversed(timeline.launches):
        chunk = drawn_chunk(launch[0]) if launch[0].visit else []
        if chunk:
            return launch, [step.step for step in chunk]
        common = sorted(set.intersection(*({step.step for step in segment.steps} for segment in launch)))
        stretch = max(_stretches(common), key=len, default=[])
        if stretch:
            first = max(0, (len(stretch) - STEPS) // 2)
            return launch, stretch[first : first + STEPS]
    return timeline.launches[-1], []


def _stretches(steps: Sequence[int]) -> list[list[int]]:
    found: list[list[int]] = []
    for step in steps:
        if not found or step != found[-1][-1] + 1:
            found.append([])
        found[-1].append(step)
    return found


def _window(launch: Sequence[Segment], steps: Sequence[int]) -> tuple[float, float]:
    """Unix seconds from the first computing on the first of the steps to the end of the last one."""
    spans = [
        (segment.start + span.begin, segment.start + span.end)
        for segment in launch
        for step in segment.steps
        for span in step.spans
        if step.step in steps and span.kind == "compute"
    ]
    return min((begin for begin, _ in spans), default=0.0), max((end for _, end in spans), default=1.0)


def _draw(axes: "Axes", lanes: Sequence[Lane], begin: float, scale: float) -> "list[Patch]":
    """Everything recorded within the limits of the axes; returns a legend entry per kind of wait that is there."""
    from matplotlib.patches import Patch

    seen = set()
    for lane in lanes:
        for step in lane.segment.steps:
            placed = boxes(step.spans, lane.segment.start - begin, scale, axes.get_xlim()[1])
            # A wait holds all blocks of its process: one box across their lanes.
            if lane.block == lane.segment.blocks[0]:
                seen |= _draw_waits(axes, lane, placed)
            draw_step(axes, lane.y, step.step, [box for span, box in placed if span.block == lane.block])
    return [Patch(label=label, hatch=HATCHES[kind], **WAIT_STYLE) for kind, label in WAITS.items() if kind in seen]


def _draw_waits(axes: "Axes", lane: Lane, boxes: Sequence[tuple[Span, Box]]) -> set[str]:
    waits = [(span.kind, box) for span, box in boxes if span.kind in WAITS]
    for kind, box in waits:
        height = len(lane.segment.blocks) - 1 + THICK
        axes.broken_barh([box], (lane.y - THICK / 2, height), hatch=HATCHES[kind], **WAIT_STYLE)
    return {kind for kind, _ in waits}


def _label(axes: "Axes", lanes: Sequence[Lane], known: dict[int, Shares | None], *, small: bool) -> None:
    """Names at the left, shares at the right; where lanes are too thin for a line each, one per process."""
    replicated = len({lane.segment.replica for lane in lanes}) > 1
    ticks, names = [], []
    write_beside(axes, IDLE_AT, -0.8, "idle", weight="bold")
    if not small:
        write_beside(axes, BUSY_AT, -0.8, "busy")
    for lane in lanes:
        segment, first = lane.segment, lane.block == lane.segment.blocks[0]
        name = f"process {segment.process}" + (f" (replica {segment.replica})" if replicated else "")
        found, centre = known.get(segment.process), lane.y + (len(segment.blocks) - 1) / 2
        if first:
            write_beside(axes, IDLE_AT, centre, percent(found.idle if found else None), weight="bold")
        if not small:
            ticks.append(lane.y)
            names.append(f"{name} · block {lane.block + 1}" if first else f"block {lane.block + 1}")
            write_beside(axes, BUSY_AT, lane.y, percent(found.busy[lane.block] if found else None))
        elif first:
            ticks.append(centre)
            names.append(name)
    axes.set_yticks(ticks, names, fontsize=9)
    axes.tick_params(axis="y", length=0)
