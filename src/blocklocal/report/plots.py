"""The pictures of a report: learning curves, accuracy by depth, backward messages, rules compared.

Blocks are ordered and take an ordered colour map; rules take the Okabe-Ito colours, which colour-blind readers can tell
apart.
"""

import math
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blocklocal._common.errors import InputError
from blocklocal._common.extras import needs
from blocklocal._common.screen import printable
from blocklocal.report.drawing import LONGEST, own_style
from blocklocal.report.read import Run, read_run, run_folder
from blocklocal.report.table import BACKPROP, CONTROL, aggregate, measure_of, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
FIXED = {BACKPROP: "#000000", CONTROL: "#767676"}
MARKERS = "osD^vP"
LEGEND_LETTERS = 64  # that fit side by side in a panel, line samples included
MOST_NAMED = 8  # more curves than this are named in part: the first, the middle and the last
# A panel this wide (inches) keeps its letters readable when a phone scales it down.
PANEL = (4.8, 3.5)
Limits = tuple[float | None, float | None]
FREE: Limits = (None, None)
PERCENT: Limits = (-1.5, 101.5)  # all that an accuracy can be, with room for a marker: a small difference looks small
FROM_ZERO: Limits = (0.0, None)


@dataclass(frozen=True)
class Curve:
    """One line of a plot.

    Attributes:
        label: an empty one keeps the curve out of the legend.
        y: unknown points are None and leave a gap.
        x: none for a single y, which is a level across the plot.
    """

    label: str
    y: Sequence[float | None]
    x: Sequence[float] = ()
    colour: str = "#000000"
    marker: str = "o"
    dashed: bool = False


@own_style()
def block_colours(blocks: int) -> list[str]:
    """One colour per block, dark to light with depth.

    The yellow end of the map is left out: it is too pale on white, and too dark where dark mode inverts it.
    """
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [to_hex(colormaps["viridis"](0.7 * k / max(blocks - 1, 1))) for k in range(blocks)]


def rule_colours(lines: Sequence[dict[str, Any]]) -> dict[str, str]:
    """A colour per line of the comparison: black for backprop, grey for the control, Okabe-Ito for the others."""
    others = [line["label"] for line in lines if line["rule"] not in FIXED]
    colours = {label: OKABE_ITO[i % len(OKABE_ITO)] for i, label in enumerate(sorted(others))}
    return {line["label"]: FIXED.get(line["rule"]) or colours[line["label"]] for line in lines}


def block_curves(run: Run, key: str) -> list[Curve]:
    """`key` (loss, train_top1, validation_top1 or message) of every block over the epochs."""
    epochs = [record["epoch"] for record in run.epochs]
    colours = block_colours(run.blocks)
    # A block count that changed on the way (a folder used twice) leaves gaps instead of wrong lines.
    named = in_legend(run.blocks)
    columns = [[r[key][k] if k < len(r.get(key, [])) else None for r in run.epochs] for k in range(run.blocks)]
    return [
        Curve(f"block {k + 1}" if k in named else "", column, epochs, colours[k], MARKERS[k % len(MARKERS)])
        for k, column in enumerate(columns)
        if any(_finite(column))
    ]


def depth_curve(label: str, accuracies: Sequence[float | None], colour: str, marker: str = "o") -> Curve:
    """Test accuracy of every block, against the number of the block."""
    return Curve(label, accuracies, range(1, len(accuracies) + 1), colour, marker)


def levels(line: dict[str, Any] | None) -> list[Curve]:
    """Backprop and the frozen control as lines across a plot, where this line of the comparison knows them."""
    pairs = ((BACKPROP, "backprop_mean"), (CONTROL, "control_mean"))
    if line is None:
        return []
    known = [(rule, line[key]) for rule, key in pairs if line[key] is not None and rule != line["rule"]]
    names = {BACKPROP: "backprop", CONTROL: "frozen control"}
    return [Curve(names[rule], [value], colour=FIXED[rule], marker="", dashed=rule == CONTROL) for rule, value in known]


@own_style()
def line_plot(curves: Sequence[Curve], x_label: str, y_label: str, limits: Limits = FREE) -> "Figure | None":
    """A figure with one panel, or None where there is nothing to draw. The y axis keeps to `limits` that are given."""
    drawn = [curve for curve in curves if any(_finite(curve.y))]
    if not any(len(curve.x) for curve in drawn):
        return None
    labels = [curve.label for curve in drawn if curve.label]
    rows = math.ceil(len(labels) / _legend_columns(labels))
    figure = _figure((PANEL[0], PANEL[1] + 0.2 * (rows - 1)))
    _draw_lines(figure.subplots(), drawn, x_label, y_label)
    if limits != FREE:  # set_ylim would hold the axis as it is, and bars of errors may be drawn later
        figure.axes[0].set_ylim(*limits)
    return figure


@own_style()
def dot_plot(lines: Sequence[dict[str, Any]]) -> "Figure | None":
    """Test accuracy per line of a comparison (`aggregate`): a dot per seed, the mean and its deviation beside them."""
    known = [line for line in lines if line["tests"]]
    if not known:
        return None
    figure = _figure((PANEL[0], 1.6 + 0.5 * len(known)))
    _draw_dots(figure.subplots(), known)
    return figure


@own_style()
def dot_panels(panels: Sequence[tuple[str, Sequence[dict[str, Any]]]], columns: int = 3) -> "Figure":
    """Several comparisons beside each other, (title, lines) each, as `dot_plot` draws one.

    A panel that lists the same lines as the one to its left leaves their names out.
    """
    from matplotlib.ticker import MaxNLocator

    rows = math.ceil(len(panels) / columns)
    height = 1.3 + 0.48 * max(len(lines) for _, lines in panels)
    figure = _figure((3.4 * min(columns, len(panels)) + 1.6, height * rows))
    grid = figure.subplots(rows, columns if rows > 1 else len(panels), squeeze=False)
    for place, axes in enumerate(grid.flat):
        if place >= len(panels):
            axes.set_visible(False)
            continue
        title, lines = panels[place]
        _draw_dots(axes, lines)
        axes.set_title(title, fontsize=10, parse_math=False)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        left = panels[place - 1][1] if place % columns else []
        if [line["label"] for line in lines] == [line["label"] for line in left]:
            axes.set_yticklabels([])
    return figure


@own_style()
def to_svg(figure: "Figure", name: str) -> str:
    """The figure as an `<svg>` element for inside a page; `name` keeps its ids apart from those of other figures."""
    import matplotlib

    buffer = StringIO()
    # A fixed salt: the same run gives the same page, byte for byte.
    with matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text)
    # Size comes from the page. An HTML parser knows the name spaces, so no address is left in the file at all.
    return re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', r"<svg \1>", text, count=1)


@own_style()
@needs("report")
def plot_comparison(rows: list[dict[str, Any]], path: Path, *, runs: Path | None = None) -> Path:
    """Write a PNG: learning curves per block of one run, beside the final accuracy of every rule.

    The curves are those of the block-local run with the lowest seed, or of the best other rule that has several blocks.

    Args:
        rows: the summaries in compare.json.
        runs: the folder that holds the runs (default: the folder of `path`).

    Raises:
        InputError: no row has a test accuracy, or the run to draw is not in `runs`.
    """
    lines = aggregate(rows)
    known = [line for line in lines if line["tests"]]
    if not known:
        raise InputError("no row has a test accuracy. Expected summaries with test_top1: let one run finish.")
    measure = measure_of(known)
    row = _row_to_draw(rows, known)
    path = Path(path)
    folder = run_folder(path.parent if runs is None else runs, row)
    if not folder.is_dir():
        raise InputError(
            f"{folder} is not there, and the learning curves come from it. Give runs=, the compare folder."
        )
    run = read_run(folder)
    key = f"validation_{measure.name}"
    key = key if any(_finite(v for r in run.epochs for v in r.get(key, []))) else f"train_{measure.name}"
    figure = _figure((9.6, max(3.8, 1.8 + 0.45 * len(known))))
    # Subfigures, so that each half has a legend and a height of its own.
    left, right = (part.subplots() for part in figure.subfigures(1, 2, squeeze=False)[0])
    kind = "validation" if key.startswith("validation") else "training"
    _draw_lines(left, block_curves(run, key), "epoch", f"{kind} {measure.heading}")
    if measure.percent:
        left.set_ylim(*PERCENT)
    title = printable(f"{row['rule']}, seed {row.get('seed')}: every block")
    left.set_title(title[:LONGEST], fontsize=10, parse_math=False)
    _draw_dots(right, known)
    right.set_title("last block, test set", fontsize=10)
    figure.savefig(path, format="png", dpi=150, metadata={"Software": None})
    return path


def _row_to_draw(rows: Sequence[dict[str, Any]], known: Sequence[dict[str, Any]]) -> dict[str, Any]:
    order = [line["rule"] for line in known]

    def rank(row: dict[str, Any]) -> tuple[bool, bool, int, float]:
        seed = row.get("seed")
        return (
            row["rule"] != "block-local",
            row["rule"] in FIXED or not (row.get("blocks") or 1) > 1,
            order.index(row["rule"]),
            seed if isinstance(seed, int) else math.inf,
        )

    return min((row for row in rows if row["rule"] in order), key=rank)


def _figure(size: tuple[float, float]) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout="constrained")


def _finite(values: Any) -> list[bool]:
    return [value is not None and math.isfinite(value) for value in values]


def _style(axes: "Axes", x_label: str, y_label: str) -> None:
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(True, color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def in_legend(count: int) -> set[int]:
    """Which of so many curves have a name there, counted from 0."""
    return set(range(count)) if count <= MOST_NAMED else {0, (count - 1) // 2, count - 1}


def _draw_lines(axes: "Axes", curves: Sequence[Curve], x_label: str, y_label: str) -> None:
    from matplotlib.ticker import MaxNLocator

    lines = [curve for curve in curves if len(curve.x)]
    for curve in lines:
        y = [math.nan if value is None or not math.isfinite(value) else value for value in curve.y]
        marker = curve.marker if len(y) <= 30 else ""
        axes.plot(
            curve.x, y, color=curve.colour, marker=marker, markersize=4.5, linewidth=1.6, label=_escape(curve.label)
        )
    for curve in curves:
        if not len(curve.x) and curve.y[0] is not None:
            style = "--" if curve.dashed else "-"
            axes.axhline(curve.y[0], color=curve.colour, linestyle=style, linewidth=1.2, label=_escape(curve.label))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    _style(axes, x_label, y_label)
    _legend(axes)


def _draw_dots(axes: "Axes", lines: Sequence[dict[str, Any]]) -> None:
    colours = rule_colours(lines)
    for i, line in enumerate(lines):
        colour, count = colours[line["label"]], len(line["tests"])
        places = [i + 0.2 for _ in line["tests"]]
        axes.plot(line["tests"], places, "o", color=colour, alpha=0.55, markersize=5, markeredgewidth=0)
        if count > 1:
            axes.errorbar(
                line["test_mean"], i, xerr=line["test_deviation"], color=colour, fmt="|", markersize=14, capsize=3
            )
        text = number(line["test_mean"], line["measure"].digits)
        axes.annotate(text, (line["test_mean"], i), (0, 8), textcoords="offset points", ha="center", fontsize=9)
    axes.set_yticks(range(len(lines)), [_escape("\n".join(textwrap.wrap(line["label"], 22))) for line in lines])
    axes.set_ylim(len(lines) - 0.5, -0.6)
    measure = measure_of(lines)
    if measure.percent:
        axes.set_xlim(*PERCENT)
    several = any(len(line["tests"]) > 1 for line in lines)
    _style(
        axes, f"test {measure.heading}" + ("\ndots: seeds; bar: mean ± deviation" if several else ", one seed each"), ""
    )
    axes.grid(False, axis="y")


def _legend(axes: "Axes") -> None:
    handles, labels = axes.get_legend_handles_labels()
    if labels:  # outside the axes, where it can hide nothing; long names get fewer columns
        columns = _legend_columns(labels)
        axes.figure.legend(handles, labels, ncols=columns, loc="outside lower center", frameon=False, fontsize=9)


def _legend_columns(labels: Sequence[str]) -> int:
    longest = max(map(len, labels), default=0)
    return max(1, min(len(labels), LEGEND_LETTERS // (longest + 6)))


def _escape(label: str) -> str:
    if not label:
        return "_nolegend_"
    label = printable(label)
    label = label if len(label) <= LONGEST else f"{label[:LONGEST]}…"
    # matplotlib reads text between dollar signs as a formula, and drops labels that begin with an underscore.
    return label.replace("$", r"\$") if not label.startswith("_") else " " + label.replace("$", r"\$")
