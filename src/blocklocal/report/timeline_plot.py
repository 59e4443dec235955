"""The picture of a parallel run: consecutive batches in the hands of different blocks at the same time.

A lane per block, lanes of one process together; a colour per step, so that the eye follows one batch from block to
block.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from blocklocal.report.drawing import own_style
from blocklocal.report.plots import OKABE_ITO
from blocklocal.report.table import NOTHING
from blocklocal.timeline.idle import Shares, shares
from blocklocal.timeline.read import WAITS, Segment, Span, Timeline

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

STEPS = 10  # consecutive steps in the picture
WIDTH = 8.4  # inches
LANE, TALLEST = 0.36, 9.0  # inches: one lane, and all of them, which get thinner to fit
GAP = 0.35  # between two processes, in lanes
HATCHES = {"wait": "////", "message": "....", "send": "xxxx"}
WAIT_STYLE = {"facecolor": "#efefef", "edgecolor": "#8c8c8c", "linewidth": 0.0}
BUSY_AT, IDLE_AT = 1.07, 1.14  # right edges of the two columns, in parts of the width of the lanes
THICK = 0.84  # of a lane
NUMBERED = 0.022  # a box at least this part of the picture wide has room for the number of its step


@dataclass(frozen=True)
class Lane:
    """One block of one process, and where it is drawn (counted downwards)."""

    segment: Segment
    block: int
    y: float


@own_style()
def timeline_figure(timeline: Timeline) -> "Figure | None":
    """Up to ten consecutive steps from the middle of the last launch of which every process recorded some.

    None where no step was recorded by all of them. Beside the lanes: the share of the training time in which the block
    computes (busy), and in which its process waits for another one (idle), over all steps (`Shares`).
    """
    from matplotlib.figure import Figure

    launch, steps = drawn_steps(timeline)
    if not steps:
        return None
    lanes = _lanes(launch)
    height = min(TALLEST, LANE * (lanes[-1].y + 1))
    figure = Figure(figsize=(WIDTH, height + 1.1), layout="constrained")
    axes = figure.subplots()
    begin, end = _window(launch, steps)
    unit, scale = ("ms", 1e3) if end - begin < 2 else ("s", 1.0)
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
    """The launch to draw, and the steps: from the middle of the longest stretch that all its processes recorded."""
    for launch in reversed(timeline.launches):
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


def _lanes(launch: Sequence[Segment]) -> list[Lane]:
    lanes: list[Lane] = []
    for segment in sorted(launch, key=lambda segment: (segment.replica, segment.stage)):
        top = lanes[-1].y + 1 + GAP if lanes else 0.0
        lanes += [Lane(segment, block, top + i) for i, block in enumerate(segment.blocks)]
    return lanes


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
            boxes = _boxes(step.spans, lane.segment.start - begin, scale, axes.get_xlim()[1])
            # A wait holds all blocks of its process: one box across their lanes.
            if lane.block == lane.segment.blocks[0]:
                seen |= _draw_waits(axes, lane, boxes)
            _draw_step(axes, lane, step.step, [box for span, box in boxes if span.block == lane.block])
    return [Patch(label=label, hatch=HATCHES[kind], **WAIT_STYLE) for kind, label in WAITS.items() if kind in seen]


def _boxes(spans: Sequence[Span], clock: float, scale: float, limit: float) -> list[tuple[Span, tuple[float, float]]]:
    """The spans that can be seen, each with its left edge and its width, cut at the limits of the picture."""
    edges = [(span, max((span.begin + clock) * scale, 0.0), min((span.end + clock) * scale, limit)) for span in spans]
    return [(span, (left, right - left)) for span, left, right in edges if right > left]


def _draw_waits(axes: "Axes", lane: Lane, boxes: Sequence[tuple[Span, tuple[float, float]]]) -> set[str]:
    waits = [(span.kind, box) for span, box in boxes if span.kind in WAITS]
    for kind, box in waits:
        height = len(lane.segment.blocks) - 1 + THICK
        axes.broken_barh([box], (lane.y - THICK / 2, height), hatch=HATCHES[kind], **WAIT_STYLE)
    return {kind for kind, _ in waits}


def _draw_step(axes: "Axes", lane: Lane, step: int, boxes: Sequence[tuple[float, float]]) -> None:
    """The boxes of one step of one block, in one colour; its number stands in the widest of them."""
    if not boxes:
        return
    colour = OKABE_ITO[step % len(OKABE_ITO)]
    axes.broken_barh(boxes, (lane.y - THICK / 2, THICK), facecolors=colour, edgecolor="white", linewidth=0.6)
    left, width = max(boxes, key=lambda box: box[1])
    if width >= NUMBERED * axes.get_xlim()[1]:
        axes.text(
            left + width / 2, lane.y, str(step), ha="center", va="center", fontsize=8, color=_ink(colour), clip_on=True
        )


def _ink(colour: str) -> str:
    from matplotlib.colors import to_rgb

    red, green, blue = to_rgb(colour)
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "white"


def _label(axes: "Axes", lanes: Sequence[Lane], known: dict[int, Shares | None], *, small: bool) -> None:
    """Names at the left, shares at the right; where lanes are too thin for a line each, one per process."""
    replicated = len({lane.segment.replica for lane in lanes}) > 1
    ticks, names = [], []
    _write(axes, IDLE_AT, -0.8, "idle", weight="bold")
    if not small:
        _write(axes, BUSY_AT, -0.8, "busy")
    for lane in lanes:
        segment, first = lane.segment, lane.block == lane.segment.blocks[0]
        name = f"process {segment.process}" + (f" (replica {segment.replica})" if replicated else "")
        found, centre = known.get(segment.process), lane.y + (len(segment.blocks) - 1) / 2
        if first:
            _write(axes, IDLE_AT, centre, percent(found.idle if found else None), weight="bold")
        if not small:
            ticks.append(lane.y)
            names.append(f"{name} · block {lane.block + 1}" if first else f"block {lane.block + 1}")
            _write(axes, BUSY_AT, lane.y, percent(found.busy[lane.block] if found else None))
        elif first:
            ticks.append(centre)
            names.append(name)
    axes.set_yticks(ticks, names, fontsize=9)
    axes.tick_params(axis="y", length=0)


def _write(axes: "Axes", x: float, y: float, text: str, weight: str = "normal") -> None:
    """Text beside the lanes: x in parts of the width, y in lanes."""
    place = axes.get_yaxis_transform()
    axes.text(x, y, text, transform=place, ha="right", va="center", fontsize=9, weight=weight)


def percent(share: float | None, digits: int = 0) -> str:
    """`12 %` for 0.12; a dash for what is not known."""
    return NOTHING if share is None else f"{100 * share:.{digits}f} %"
