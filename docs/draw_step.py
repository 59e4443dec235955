"""docs/step.svg, the picture of one step in three blocks: python docs/draw_step.py docs/step.svg

The picture brings its own white card, so that it reads the same on a light and on a dark page.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from blocklocal.report.drawing import own_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, FORWARD, BACKWARD, GRADIENT = "#1b1b1b", "#0072B2", "#007a5a", "#c4490a"
COLUMNS = (2.6, 6.0, 9.4)  # the middle of every learner
BLOCK, READOUT, LOSS, TWIN, TARGET = 1.0, 2.5, 4.0, 5.5, 6.9  # heights
HALF = (0.8, 0.36)  # half a box: width, height
Point = tuple[float, float]


def box(axes: "Axes", x: float, y: float, text: str, colour: str, fill: str) -> None:
    width, height = HALF
    shape = FancyBboxPatch(
        (x - width, y - height), 2 * width, 2 * height, boxstyle="round,pad=0,rounding_size=0.12", ec=colour, fc=fill
    )
    axes.add_patch(shape)
    axes.text(x, y, text, ha="center", va="center", fontsize=11, color=INK)


def arrow(axes: "Axes", start: Point, end: Point, colour: str, bend: float = 0.0, dashed: bool = False) -> None:
    style = f"arc3,rad={bend}"
    line = "--" if dashed else "-"
    width = 1.5 if dashed else 2.0
    axes.add_patch(
        FancyArrowPatch(
            start, end, arrowstyle="-|>", mutation_scale=15, color=colour, lw=width, ls=line, connectionstyle=style
        )
    )


def learner(axes: "Axes", number: int, x: float, last: bool) -> None:
    """One column: the block, what reads its output, its loss, and what comes from the target."""
    width, height = HALF
    axes.add_patch(
        FancyBboxPatch((x - 1.3, 0.35), 2.6, 5.75, boxstyle="round,pad=0,rounding_size=0.2", ec="#c8c8c8", fc="#f6f6f4")
    )
    axes.text(x, 0.05, f"learner {number}" + (" (output)" if last else ""), ha="center", fontsize=11, color=INK)
    box(axes, x, BLOCK, f"block {number}", FORWARD, "#dcebf6")
    box(axes, x, LOSS, f"local loss $L_{number}$", GRADIENT, "#fbe6da")
    top = BLOCK if last else READOUT
    if not last:
        box(axes, x, READOUT, "readout", FORWARD, "#eef5fa")
        box(axes, x, TWIN, f"twin {number}", BACKWARD, "#dff1ea")
        arrow(axes, (x, BLOCK + height), (x, READOUT - height), FORWARD)
        arrow(axes, (x, TWIN - height), (x, LOSS + height), BACKWARD)
        axes.text(x - 0.12, (TWIN + LOSS) / 2, f"$b_{number}$", ha="right", va="center", fontsize=12, color=BACKWARD)
        arrow(axes, (x + width, LOSS + 0.1), (x + width, TWIN), GRADIENT, 0.6, dashed=True)
    arrow(axes, (x, top + height), (x, LOSS - height), FORWARD)
    arrow(axes, (x, TARGET), (x, (LOSS if last else TWIN) + height), BACKWARD)
    arrow(axes, (x + width, LOSS - 0.1), (x + width, BLOCK), GRADIENT, -0.32, dashed=True)


def keys(axes: "Axes") -> None:
    """What the three kinds of arrows are."""
    for x, colour, dashed, text in (
        (0.3, FORWARD, False, "forward; data between learners"),
        (4.35, BACKWARD, False, "backward, from the target"),
        (8.0, GRADIENT, True, "gradient, in one learner"),
    ):
        arrow(axes, (x, -0.6), (x + 0.75, -0.6), colour, dashed=dashed)
        axes.text(x + 0.9, -0.6, text, va="center", fontsize=10.5, color=INK)


def draw() -> Figure:
    figure = Figure(figsize=(9.2, 6.4), facecolor="white")
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set(xlim=(-0.1, 11.5), ylim=(-1.0, 7.4))
    axes.axis("off")
    for number, x in enumerate(COLUMNS, 1):
        learner(axes, number, x, last=x == COLUMNS[-1])
    axes.plot([0.9, COLUMNS[-1]], [TARGET, TARGET], color=BACKWARD, lw=2.0)
    axes.text(0.8, TARGET, "target $y$", ha="right", va="center", fontsize=12, color=BACKWARD)
    axes.text(0.35, BLOCK, "input $x$", ha="center", va="center", fontsize=12, color=FORWARD)
    starts = (0.85, *(x + HALF[0] for x in COLUMNS[:-1]))
    for number, (start, x) in enumerate(zip(starts, COLUMNS, strict=True)):
        arrow(axes, (start, BLOCK), (x - HALF[0], BLOCK), FORWARD)
        if number:
            axes.text((start + x - HALF[0]) / 2, BLOCK + 0.12, f"$a_{number}$", ha="center", fontsize=12, color=FORWARD)
    keys(axes)
    return figure


@own_style()
def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: python docs/draw_step.py docs/step.svg", file=sys.stderr)
        return 2
    path = Path(arguments[0])
    with matplotlib.rc_context({"svg.hashsalt": path.name, "svg.fonttype": "path"}):
        draw().savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
