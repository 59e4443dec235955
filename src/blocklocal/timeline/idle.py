"""How much of its time a process waits, from the sums that it writes over all its steps."""

from collections.abc import Sequence
from dataclasses import dataclass

from blocklocal.timeline.segments import AHEAD, COMPUTE, WAITS, Segment, Timeline, Totals


@dataclass(frozen=True)
class Shares:
    """Parts of the seconds of training of one process, between 0 and 1.

    The waits, `busy` and `other` together make 1. `fetch` and `write` run beside them, in threads of their own.

    Attributes:
        wait, message, send: the three waits for another process, or in `wait` that for a block (`Span`).
        busy: the computing of each block, by its number from 0.
        other: what remains: loading of data, bookkeeping.
        fetch, write: the fetching and writing back of each block, where one at a time is in memory; else 0.
    """

    seconds: float
    wait: float
    message: float
    send: float
    busy: dict[int, float]
    other: float
    fetch: dict[int, float]
    write: dict[int, float]

    @property
    def idle(self) -> float:
        """Share of the time in which the process, and so each of its blocks, waits for another process, or for a block.

        It is (wait + message + send) / seconds. Loading data is work and does not count; nor does the time in which a
        block stands still because another block of its process computes, which is in `busy`.
        """
        return self.wait + self.message + self.send


def shares(timeline: Timeline, launch: Sequence[Segment] | None = None) -> dict[int, Shares | None]:
    """The shares of every process of a launch (the last one), over all segments in which it held the same blocks.

    None for a process that has written no sums yet (they come at the end of an epoch).
    """
    chosen = timeline.launches[-1] if launch is None else launch
    return {segment.process: _shares(_totals(timeline, segment)) for segment in chosen}


def _totals(timeline: Timeline, own: Segment) -> list[Totals]:
    return [totals for segment in timeline.segments if segment.place == own.place for totals in segment.totals]


def _shares(totals: Sequence[Totals]) -> Shares | None:
    seconds = sum(each.seconds for each in totals)
    if not seconds:
        return None
    wait, message, send = (sum(getattr(each, key) for each in totals) / seconds for key in WAITS)
    busy, fetch, write = (_per_block(totals, key, seconds) for key in (COMPUTE, *AHEAD))
    # Clocks are read one after the other: the sum of the parts may pass the whole by a hair.
    other = max(0.0, 1.0 - wait - message - send - sum(busy.values()))
    return Shares(seconds, wait, message, send, busy, other, fetch, write)


def _per_block(totals: Sequence[Totals], key: str, seconds: float) -> dict[int, float]:
    return {block: sum(getattr(each, key)[block] for each in totals) / seconds for block in totals[0].compute}
