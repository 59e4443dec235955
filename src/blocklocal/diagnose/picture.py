"""`diagnosis.png`: accuracy along depth, what is left of the image, and how gradients agree with backprop's."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from blocklocal.diagnose.diagnosis import Diagnosis
from blocklocal.diagnose.text import TextDiagnosis
from blocklocal.report.drawing import own_style
from blocklocal.report.plots import FIXED, OKABE_ITO
from blocklocal.report.save import DPI
from blocklocal.report.table import BACKPROP, CONTROL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RUN_COLOUR, FROZEN_COLOUR, AGAINST_COLOUR = OKABE_ITO[0], FIXED[CONTROL], FIXED[BACKPROP]


@own_style()
def diagnosis_figure(diagnosis: Diagnosis) -> "Figure":
    """Three panels over the number of the block; unknown figures leave a gap."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    blocks, other = diagnosis.blocks, diagnosis.against_rule
    figure = Figure(figsize=(11.2, 3.8), layout=ConstrainedLayoutEngine(w_pad=0.12))
    accuracy, image, gradient = figure.subplots(1, 3)
    if other is not None:
        _line(accuracy, [b.against_probe for b in blocks], f"{other}, probe", AGAINST_COLOUR, "s-")
        _line(image, [b.against_explained for b in blocks], "", AGAINST_COLOUR, "s-")
    _line(accuracy, [b.probe for b in blocks], f"{diagnosis.rule} (this run), probe", RUN_COLOUR, "o-")
    _line(accuracy, [b.own for b in blocks], "its own predictions", RUN_COLOUR, "o:", hollow=True)
    _line(accuracy, [b.frozen_probe for b in blocks], "untrained (frozen), probe", FROZEN_COLOUR, "^--")
    _line(image, [b.explained for b in blocks], "", RUN_COLOUR, "o-")
    _line(image, [b.frozen_explained for b in blocks], "", FROZEN_COLOUR, "^--")
    _bars(gradient, [b.cosine for b in blocks])
    _style(accuracy, len(blocks), f"top-1 (%), {diagnosis.scored} {diagnosis.scored_on} images", "what can be read off")
    _style(image, len(blocks), "variance of the pixels got back (%)", "what is left of the image")
    _style(gradient, len(blocks), "cosine", "own gradient and backprop's")
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return figure


@own_style()
def text_figure(diagnosis: TextDiagnosis) -> "Figure":
    """Two panels over the number of the block: bits per byte, and cosines."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    blocks, other = diagnosis.blocks, diagnosis.against_rule
    figure = Figure(figsize=(7.6, 3.8), layout=ConstrainedLayoutEngine(w_pad=0.12))
    bits, gradient = figure.subplots(1, 2)
    if other is not None:
        _line(bits, [b.against_probe for b in blocks], f"{other}, probe", AGAINST_COLOUR, "s-")
    _line(bits, [b.probe for b in blocks], f"{diagnosis.rule} (this run), probe", RUN_COLOUR, "o-")
    _line(bits, [b.own for b in blocks], "its own predictions", RUN_COLOUR, "o:", hollow=True)
    _line(bits, [b.frozen_probe for b in blocks], "untrained (frozen), probe", FROZEN_COLOUR, "^--")
    _bars(gradient, [b.cosine for b in blocks])
    _style(bits, len(blocks), f"bits per byte, {diagnosis.scored_on} text", "what can be read off")
    _style(gradient, len(blocks), "cosine", "own gradient and backprop's")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


@own_style()
def save_picture(diagnosis: Diagnosis | TextDiagnosis, path: Path) -> None:
    """Write the figure as a PNG, without dates: the same diagnosis gives the same bytes."""
    made = text_figure(diagnosis) if isinstance(diagnosis, TextDiagnosis) else diagnosis_figure(diagnosis)
    made.savefig(path, format="png", dpi=DPI, metadata={"Software": None})


def _line(
    axes: "Axes", values: Sequence[float | None], label: str, colour: str, style: str, *, hollow: bool = False
) -> None:
    known = [(k, value) for k, value in enumerate(values, 1) if value is not None]
    if known:
        x, y = zip(*known, strict=True)
        face = "white" if hollow else colour
        axes.plot(x, y, style, color=colour, markerfacecolor=face, markersize=5, linewidth=1.6, label=label or None)


def _bars(axes: "Axes", cosines: Sequence[float | None]) -> None:
    known = [(k, value) for k, value in enumerate(cosines, 1) if value is not None]
    axes.bar([k for k, _ in known], [value for _, value in known], width=0.6, color=RUN_COLOUR)
    if len(known) <= 10:
        for k, value in known:
            axes.annotate(
                f"{value:.2f}", (k, max(value, 0)), (0, 3), textcoords="offset points", ha="center", fontsize=8
            )
    axes.axhline(0, color="#000000", linewidth=0.8)
    axes.set_ylim(min([-0.1, *(value for _, value in known)]) * 1.1, 1.1)


def _style(axes: "Axes", blocks: int, label: str, title: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_title(title, fontsize=10)
    axes.set_xlabel("block")
    axes.set_ylabel(label, fontsize=9)
    axes.set_xlim(0.5, blocks + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(True, axis="y", color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
