"""The report's section on values: pictures and a table of the intervals that `blocklocal calibrate` has fitted."""

from pathlib import Path
from typing import Any, Literal

from blocklocal._common.files import is_there
from blocklocal.exits.intervals import INTERVALS, RunIntervals, intervals_of
from blocklocal.report import plots
from blocklocal.uncertainty.coverages import COVERAGES

PERCENTS = [100 * coverage for coverage in COVERAGES]


def intervals_section(run: Path) -> dict[str, Any] | None:
    """Fields of the template; None where the run was not calibrated, or predicts no values.

    Returns:
        pictures, headings, rows (a block each, and all together), samples, checkpoint.
    """
    if not is_there(run / INTERVALS):
        return None
    found = intervals_of(run)
    pictures = [
        ("intervals-before", _inside(found, "shares_before"), "How many values their Gaussian holds, as trained."),
        ("intervals-after", _inside(found, "shares"), "The same with the temperatures: best is the diagonal."),
        ("intervals-width", _widths(found), f"Half widths of the output's intervals, in {found.unit}."),
    ]
    return {
        "pictures": [
            {"svg": plots.to_svg(figure, name), "caption": text}
            for name, figure, text in pictures
            if figure is not None
        ],
        "headings": ["block", *found.table[0][1]],
        "rows": [[name, *figures.values()] for name, figures in found.table],
        "samples": f"{found.samples:,}",
        "checkpoint": found.checkpoint,
    }


def _inside(found: RunIntervals, when: Literal["shares", "shares_before"]) -> Any:
    """A curve per block: by the share that is asked for the share that is inside."""
    blocks = len(found.told) - (found.together is not None)
    colours = [*plots.block_colours(blocks), "#000000"]
    curves = [plots.Curve("as asked", PERCENTS, PERCENTS, colour="#9a9a9a", marker="")]
    for (name, each), colour in zip(found.told, colours, strict=False):
        if shares := getattr(each, when):
            curves.append(plots.Curve(name, shares, PERCENTS, colour=colour, marker=""))
    return plots.line_plot(curves, "asked (%)", "inside (%)") if len(curves) > 1 else None


def _widths(found: RunIntervals) -> Any:
    """A curve per value; broken off where there were too few samples."""
    colours, named = plots.block_colours(len(found.values)), plots.in_legend(len(found.values))
    told = zip(found.values, zip(*found.limits, strict=True), colours, strict=True)
    curves = [
        plots.Curve(name if i in named else "", half, PERCENTS, colour=colour, marker="")
        for i, (name, half, colour) in enumerate(told)
    ]
    return plots.line_plot(curves, "coverage (%)", "half width", plots.FROM_ZERO)
