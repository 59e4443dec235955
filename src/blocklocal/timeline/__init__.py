"""What the processes of a run did when: read back, summed up as idle shares, and exported as a trace."""

from blocklocal.timeline.idle import Shares, shares
from blocklocal.timeline.read import read_timeline
from blocklocal.timeline.segments import Segment, Span, Step, Timeline, Totals
from blocklocal.timeline.trace import trace_events, write_trace

__all__ = [
    "Segment",
    "Shares",
    "Span",
    "Step",
    "Timeline",
    "Totals",
    "read_timeline",
    "shares",
    "trace_events",
    "write_trace",
]
