"""What pictures of a timeline have in common: lanes of blocks, boxes of spans, words beside the lanes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from blocklocal.report.plots import OKABE_ITO
from blocklocal.report.table import NOTHING
from blocklocal.timeline.segments import Segment, Span

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH = 8.4  # inches
LANE, TALLEST = 0.36, 9.0  # inches: one lane, and all of them, which get thinner to fit
GAP = 0.35  # between two processes, in lanes
THICK = 0.84  # of a lane
EDGE = 0.6  # points: the white line around a box
BUSY_AT, IDLE_AT = 1.07, 1.14  # right edges of the two columns, in parts of the width of the lanes
NUMBERED = 0.022  # a box at least this part of the picture wide has room for the number of its step
HATCHES = {"wait": "////", "message": "....", "send": "xxxx"}  # of waits for another process
WAIT_STYLE: dict[str, Any] = {"facecolor": "#efefef", "edgecolor": "#8c8c8c", "linewidth": 0.0}
Box = tuple[float, float]
"""Left edge and width, in units of the axis."""


@dataclass(frozen=True)
class Lane:
    """One block of one process, and where it is drawn (counted downwards)."""

    segment: Segment
    block: int
    y: float


def lanes_of(launch: Sequence[Segment]) -> list[Lane]:
    """A lane per block, those of one process together."""
    lanes: list[Lane] = []
    for segment in sorted(launch, key=lambda segment: (segment.replica, segment.stage)):
        top = lanes[-1].y + 1 + GAP if lanes else 0.0
        lanes += [Lane(segment, block, top + i) for i, block in enumerate(segment.blocks)]
    return lanes


def unit_of(seconds: float) -> tuple[str, float]:
    """The unit for a picture of so many seconds, and how many of it make a second."""
    return ("ms", 1e3) if seconds < 2 else ("s", 1.0)


def boxes(spans: Sequence[Span], clock: float, scale: float, limit: float) -> list[tuple[Span, Box]]:
    """The spans that can be seen, each with its box, cut at the limits of the picture."""
    edges = [(span, max((span.begin + clock) * scale, 0.0), min((span.end + clock) * scale, limit)) for span in spans]
    return [(span, (left, right - left)) for span, left, right in edges if right > left]


def draw_step(
    axes: "Axes", y: float, step: int, placed: Sequence[Box], name: str | None = None, edge: float = EDGE
) -> None:
    """The boxes of one step of the block at y, in one colour; its number (or name) stands in the widest of them."""
    if not placed:
        return
    colour = OKABE_ITO[step % len(OKABE_ITO)]
    axes.broken_barh(placed, (y - THICK / 2, THICK), facecolors=colour, edgecolor="white", linewidth=edge)
    left, width = max(placed, key=lambda box: box[1])
    name = name or str(step)
    if width >= NUMBERED * axes.get_xlim()[1] * max(1.0, len(name) / 3):
        axes.text(left + width / 2, y, name, ha="center", va="center", fontsize=8, color=_ink(colour), clip_on=True)


def _ink(colour: str) -> str:
    from matplotlib.colors import to_rgb

    red, green, blue = to_rgb(colour)
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "white"


def write_beside(axes: "Axes", x: float, y: float, text: str, weight: str = "normal") -> None:
    """Text beside the lanes: x in parts of the width, y in lanes."""
    place = axes.get_yaxis_transform()
    axes.text(x, y, text, transform=place, ha="right", va="center", fontsize=9, weight=weight)


def percent(share: float | None, digits: int = 0) -> str:
    """`12 %` for 0.12; a dash for what is not known."""
    return NOTHING if share is None else f"{100 * share:.{digits}f} %"
