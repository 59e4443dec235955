"""The pictures of Figure 2: images with their errors and predicted variances, and mismatch over training."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from blocklocal.report.drawing import own_style
from blocklocal.report.plots import OKABE_ITO

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINES = {
    "image": ("image", "gray"),
    "mean": ("reconstruction", "gray"),
    "squared_error": ("squared\nerror", "magma"),
    "variance": ("predicted\nvariance", "magma"),
}
PANELS = {
    "rmse": "RMSE (pixels in [0, 1])",
    "spearman": "Spearman (1 is best)",
    "pearson": "Pearson (0.577 is the ceiling)",
    "ause": "AUSE (0 is best)",
    "ence": "calibration error, ENCE",
    "nll": "NLL (nats per pixel)",
}
MARKERS = "osD^vP"
GAP = 2  # pixels between two images


@own_style()
def examples_figure(examples: Sequence[tuple[str, Mapping[str, list]]]) -> "Figure":
    """One part per network: (its name, lists [N][H][W] of "image", "mean", "squared_error" and "variance").

    Error and variance of one network share their colours, from 0 to the 99.5th percentile of the errors.
    """
    from matplotlib.figure import Figure

    count = len(examples[0][1]["image"])
    figure = Figure(figsize=(1.2 + count, 4.6 * len(examples)), layout="constrained")
    parts = figure.subfigures(len(examples), 1, squeeze=False)[:, 0]
    for part, (name, shown) in zip(parts, examples, strict=True):
        part.suptitle(name, fontsize=11)
        _draw_images(part.subplots(len(LINES), 1), shown)
    return figure


@own_style()
def curves_figure(curves: Sequence[tuple[str, Mapping[str, Sequence[float | None]]]]) -> "Figure":
    """One panel per measure, over epochs; one line per network. A measure that is not defined leaves a gap."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 6.0), layout="constrained")
    panels = figure.subplots(2, 3)
    for axes, (key, label) in zip(panels.flat, PANELS.items(), strict=True):
        for i, (name, values) in enumerate(curves):
            y = [float("nan") if value is None else value for value in values[key]]
            style = {"color": OKABE_ITO[i % len(OKABE_ITO)], "marker": MARKERS[i % len(MARKERS)]}
            axes.plot(values["epoch"], y, label=name, markersize=4, linewidth=1.6, **style)
        _style(axes, label)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, ncols=2, loc="outside lower center", frameon=False, fontsize=9)
    return figure


def _draw_images(panels: Any, shown: Mapping[str, list]) -> None:
    """One line of images per panel."""
    import numpy as np

    top = float(np.percentile(np.asarray(shown["squared_error"]), 99.5)) or 1.0
    for axes, (key, (label, colours)) in zip(panels, LINES.items(), strict=True):
        images = np.pad(np.asarray(shown[key]), ((0, 0), (0, 0), (0, GAP)), constant_values=np.nan)
        line = np.concatenate(list(images), axis=1)[:, :-GAP]
        axes.imshow(line, cmap=colours, vmin=0, vmax=1 if colours == "gray" else top, interpolation="nearest")
        axes.set_ylabel(label, fontsize=9)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)


def _style(axes: "Axes", label: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("epoch")
    axes.set_title(label, fontsize=10)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(True, color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
