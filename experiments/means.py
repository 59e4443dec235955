"""Pictures of means over seeds: a line per name, with a bar of one deviation where there are several seeds."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from blocklocal.report.drawing import own_style
from blocklocal.report.plots import FIXED, MARKERS, OKABE_ITO, Curve, line_plot

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Points = Mapping[float, Sequence[float]]  # x → the values of all seeds


@own_style()
def means_plot(
    lines: Mapping[str, Points],
    x_label: str,
    y_label: str,
    *,
    labels: Mapping[str, str],
    ticks: Sequence[float] = (),
) -> "Figure | None":
    """One panel with a line per entry of `lines`; None where there is nothing to draw.

    labels: what the legend calls a line. Colours follow the place of a line in `labels`, so that pictures agree. ticks:
    of the x axis, which is then logarithmic.
    """
    styles = _styles(labels)
    curves = [Curve(labels[name], *_means(points), *styles[name]) for name, points in lines.items() if points]
    figure = line_plot(curves, x_label, y_label)
    if figure is None:
        return None
    axes = figure.axes[0]
    for name, points in lines.items():
        x, y = sorted(points), [points[key] for key in sorted(points)]
        known = [
            (at, statistics.fmean(values), statistics.stdev(values))
            for at, values in zip(x, y, strict=True)
            if len(values) > 1
        ]
        if known:
            axes.errorbar(*zip(*known, strict=True), fmt="none", ecolor=styles[name][0], elinewidth=1.2, capsize=3)
    if ticks:
        axes.set_xscale("log", base=2)
        axes.set_xticks(list(ticks), [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
    return figure


def _means(points: Points) -> tuple[list[float], list[float]]:
    """(y, x), as `Curve` takes them."""
    places = sorted(points)
    return [statistics.fmean(points[place]) if points[place] else math.nan for place in places], places


def _styles(labels: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """(colour, marker) of every name: black for backprop, grey for the control, Okabe-Ito for the others."""
    others = [name for name in labels if name not in FIXED]
    colours = {name: OKABE_ITO[i % len(OKABE_ITO)] for i, name in enumerate(others)} | FIXED
    return {name: (colours[name], MARKERS[i % len(MARKERS)]) for i, name in enumerate(labels)}
