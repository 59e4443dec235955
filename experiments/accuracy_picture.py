"""The picture of `accuracy`: test accuracy by rule, with backprop and the control as lines across it."""

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from blocklocal._common.measures import TOP1
from blocklocal.report.drawing import own_style
from blocklocal.report.plots import FIXED, dot_plot
from blocklocal.report.table import mean
from experiments.accuracy_paired import by_seed
from experiments.accuracy_tables import Line, panels
from experiments.experiment import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GROUP, BLOCKS = "proxy", 4  # what is drawn, and whose control is the line


@own_style()
def proxy_picture(rows: Sequence[Row]) -> "Figure | None":
    """A dot per seed of every line of the proxy; None where nothing of it is measured."""
    lines = [line for panel in panels(rows) if panel.group == GROUP for line in panel.lines()]
    drawn = [_dots(line) for line in lines]
    figure = dot_plot(drawn)
    if figure is None:
        return None
    for line, dots in zip(lines, drawn, strict=True):
        if dots["test_mean"] is not None and (line.method, line.blocks) in (("backprop", 1), ("frozen", BLOCKS)):
            style = "-" if line.method == "backprop" else "--"
            colour = FIXED[line.method]
            figure.axes[0].axvline(dots["test_mean"], color=colour, linestyle=style, linewidth=1.2, zorder=1.5)
    return figure


def _dots(line: Line) -> dict[str, Any]:
    """A line as `dot_plot` takes it."""
    tests = list(by_seed(line.rows).values())
    return {
        "label": line.label,
        "rule": line.method,
        "measure": TOP1,
        "tests": tests,
        "test_mean": mean(tests),
        "test_deviation": statistics.stdev(tests) if len(tests) > 1 else None,
    }
