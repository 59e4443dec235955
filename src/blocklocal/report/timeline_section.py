"""The report's section on the timeline: the layout, the picture, and a table of shares per process and block."""

from typing import Any

from blocklocal.report.plots import to_svg
from blocklocal.report.timeline_plot import drawn_steps, percent, timeline_figure
from blocklocal.timeline.idle import Shares, shares
from blocklocal.timeline.read import Segment, Timeline

HEADINGS = ("process", "block", "name", "busy", "idle", "for message", "for late message", "for room", "other")


def timeline_section(timeline: Timeline) -> dict[str, Any]:
    """Fields of the template about the timeline.

    Returns:
        layout, svg (empty where no step can be drawn), caption, headings, processes.
    """
    launch, known = timeline.launches[-1], shares(timeline)
    figure = timeline_figure(timeline)
    steps = drawn_steps(timeline)[1]
    caption = (
        f"Steps {steps[0]} to {steps[-1]}, as recorded: a colour per batch, which goes from block to block while the "
        "blocks before it work on the next ones. Hatched: waits."
        if steps
        else ""
    )
    return {
        "layout": _layout(launch),
        "svg": to_svg(figure, "timeline") if figure else "",
        "caption": caption,
        "headings": HEADINGS,
        "processes": [_process(segment, known[segment.process]) for segment in launch],
    }


def _layout(launch: list[Segment]) -> str:
    """`4 processes (2 replicas of 2), 1 thread each, cpu, on one host`."""
    replicas, hosts = len({segment.replica for segment in launch}), len({segment.host for segment in launch})
    threads = sorted({segment.threads for segment in launch})
    processes = f"{len(launch)} process{'es' if len(launch) > 1 else ''}"
    if replicas > 1:
        processes += f" ({replicas} replicas of {len(launch) // replicas})"
    counted = " or ".join(map(str, threads)) + (" thread each" if threads == [1] else " threads each")
    devices = " / ".join(sorted({segment.device for segment in launch}))
    return f"{processes}, {counted}, {devices}, on {'one host' if hosts == 1 else f'{hosts} hosts'}"


def _process(segment: Segment, found: Shares | None) -> dict[str, Any]:
    keys = ("idle", "wait", "message", "send", "other")
    busy = [percent(found.busy[block] if found else None, 1) for block in segment.blocks]
    numbers = [block + 1 for block in segment.blocks]
    return {
        "number": segment.process,
        "blocks": list(zip(numbers, segment.names, busy, strict=True)),
        "shares": [percent(getattr(found, key) if found else None, 1) for key in keys],
    }
