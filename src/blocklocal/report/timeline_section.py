"""The report's section on the timeline: the layout, the picture, and a table of shares per process and block."""

from typing import Any

from blocklocal.report.lanes import percent
from blocklocal.report.plots import to_svg
from blocklocal.report.timeline_plot import drawn_steps, timeline_figure
from blocklocal.timeline.idle import Shares, shares
from blocklocal.timeline.segments import Segment, Timeline

HEADINGS = ("process", "block", "name", "busy", "idle", "for message", "for late message", "for room", "other")
WAITS = ("idle", "wait", "message", "send", "other")
VISIT_HEADINGS = ("process", "block", "name", "busy", "fetched", "written back", "idle", "other")


def timeline_section(timeline: Timeline) -> dict[str, Any]:
    """Fields of the template about the timeline.

    Returns:
        layout, svg (empty where no step can be drawn), caption, visit (steps, or 0), headings, processes.
    """
    launch, known = timeline.launches[-1], shares(timeline)
    visit, figure = launch[0].visit, timeline_figure(timeline)
    drawn, steps = drawn_steps(timeline)
    caption = ""
    if steps:
        caption = _visits_caption(steps, known) if drawn[0].visit else _caption(steps)
    return {
        "layout": _layout(launch),
        "svg": to_svg(figure, "timeline") if figure else "",
        "caption": caption,
        "visit": visit,
        "headings": VISIT_HEADINGS if visit else HEADINGS,
        "processes": [_process(segment, known[segment.process]) for segment in launch],
    }


def _caption(steps: list[int]) -> str:
    return (
        f"Steps {steps[0]} to {steps[-1]}, as recorded: a colour per batch, which goes from block to block while the "
        "blocks before it work on the next ones. Hatched: waits."
    )


def _visits_caption(steps: list[int], known: dict[int, Shares | None]) -> str:
    idle = [found.idle for found in known.values() if found]
    waited = f": over all steps, {percent(idle[0], 1)} of the time of training" if len(known) == len(idle) == 1 else ""
    return (
        f"Steps {steps[0]} to {steps[-1]}, as recorded, a colour per step. Every block takes all of them in its visit. "
        "Hatched: a block is fetched or written back; what of this lies above or below the computing of another block "
        f"costs no time. Grey: computing waits for a block{waited}."
    )


def _layout(launch: list[Segment]) -> str:
    """`4 processes (2 replicas of 2), 1 thread each, cpu, on one host`, or `1 process, one block at a time, …`."""
    replicas, hosts = len({segment.replica for segment in launch}), len({segment.host for segment in launch})
    threads = sorted({segment.threads for segment in launch})
    processes = f"{len(launch)} process{'es' if len(launch) > 1 else ''}"
    if replicas > 1:
        processes += f" ({replicas} replicas of {len(launch) // replicas})"
    each = " each" if len(launch) > 1 else ""
    counted = " or ".join(map(str, threads)) + (" thread" if threads == [1] else " threads") + each
    if launch[0].visit:
        visits = f"visits of {launch[0].visit} step{'' if launch[0].visit == 1 else 's'}"
        processes += f", one block at a time{' in each' if each else ''}, {visits}"
    devices = " / ".join(sorted({segment.device for segment in launch}))
    return f"{processes}, {counted}, {devices}, on {'one host' if hosts == 1 else f'{hosts} hosts'}"


def _process(segment: Segment, found: Shares | None) -> dict[str, Any]:
    of_block = ("busy", "fetch", "write") if segment.visit else ("busy",)
    of_process = ("idle", "other") if segment.visit else WAITS
    blocks = [
        (block + 1, name, [percent(getattr(found, key)[block] if found else None, 1) for key in of_block])
        for block, name in zip(segment.blocks, segment.names, strict=True)
    ]
    return {
        "number": segment.process,
        "blocks": blocks,
        "shares": [percent(getattr(found, key) if found else None, 1) for key in of_process],
    }
