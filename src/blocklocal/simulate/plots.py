"""Pictures: what every device does when, and idle share against the number of devices."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from blocklocal.report.drawing import own_style
from blocklocal.report.plots import MARKERS, OKABE_ITO, Curve, line_plot
from blocklocal.simulate.run import Result, StepSpan
from blocklocal.simulate.schedules import BLOCK_LOCAL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_DEVICES = 16  # that a timeline shows
LETTER = 0.009  # of a panel's width: what a digit needs
COLOURS = {"F": OKABE_ITO[5], "B": OKABE_ITO[2], "W": OKABE_ITO[4], "L": OKABE_ITO[3]}
MEANING = {
    "F": "forward",
    "B": "backward (input gradient where W is apart)",
    "W": "weight gradient",
    "L": "local loss, backward and update",
}


@own_style()
def gantt(timelines: Mapping[str, Sequence[StepSpan]]) -> "Figure":
    """A panel per schedule: a row per device, a bar per operation with the number of its micro-batch.

    The panels share their seconds, but for block-local's, which shows several whole batches.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    devices = 1 + max(span.device for spans in timelines.values() for span in spans)
    figure = Figure(figsize=(9.6, 0.6 + len(timelines) * (0.7 + 0.22 * devices)), layout="constrained")
    panels = figure.subplots(len(timelines), 1, squeeze=False)[:, 0]
    longest = max((s.end for name, spans in timelines.items() if name != BLOCK_LOCAL for s in spans), default=None)
    for axes, (name, spans) in zip(panels, timelines.items(), strict=True):
        local = name == BLOCK_LOCAL
        _draw(axes, spans, devices, None if local else longest)
        title = f"{name}, {1 + max(span.micro for span in spans)} batches" if local else name
        axes.set_title(title, fontsize=10, loc="left")
    panels[-1].set_xlabel("seconds")
    letters = [letter for letter in MEANING if any(s.letter == letter for spans in timelines.values() for s in spans)]
    handles = [Patch(color=COLOURS[letter], label=f"{letter}: {MEANING[letter]}") for letter in letters]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def _draw(axes: "Axes", spans: Sequence[StepSpan], devices: int, longest: float | None) -> None:
    width = longest or max(span.end for span in spans)
    for letter, colour in COLOURS.items():
        for device in range(devices):
            own = [span for span in spans if span.device == device and span.letter == letter]
            bars = [(span.start, span.end - span.start) for span in own]
            axes.broken_barh(bars, (device - 0.42, 0.84), facecolors=colour, edgecolor="white", linewidth=0.5)
    for span in spans:
        text = str(span.micro)
        if span.end - span.start > LETTER * len(text) * width:
            middle = (span.start + span.end) / 2
            axes.text(middle, span.device, text, ha="center", va="center", fontsize=6, clip_on=True)
    axes.set_xlim(0, width)
    axes.set_yticks(range(devices))
    axes.set_ylim(devices - 0.5, -0.5)
    axes.set_ylabel("device", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


@own_style()
def idle_curves(results: Sequence[Result]) -> "Figure":
    """Idle share of every schedule against the number of devices, on a scale of doublings."""
    names = list(dict.fromkeys(result.schedule for result in results))
    curves = []
    for i, name in enumerate(names):
        own = sorted((result for result in results if result.schedule == name), key=lambda result: result.devices)
        colour = "#000000" if name == BLOCK_LOCAL else OKABE_ITO[i % len(OKABE_ITO)]
        y = [100 * result.idle_share for result in own]
        curves.append(Curve(name, y, [result.devices for result in own], colour, MARKERS[i % len(MARKERS)]))
    figure = line_plot(curves, "devices", "idle share (%)")
    assert figure is not None
    counts = sorted({result.devices for result in results})
    figure.axes[0].set_xscale("log", base=2)
    figure.axes[0].set_xticks(counts, [str(count) for count in counts])
    figure.axes[0].minorticks_off()
    figure.axes[0].set_ylim(bottom=0)
    return figure
