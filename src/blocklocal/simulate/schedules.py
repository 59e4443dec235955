"""The schedules by name: how many chunks a device holds and where, its order, and what the end of a step waits for."""

from collections.abc import Callable
from dataclasses import dataclass

from blocklocal._common.registry import Registry
from blocklocal.simulate import orders
from blocklocal.simulate.orders import Codes, MicroBatches

BLOCK_LOCAL = "block-local"


def in_turns(chunk: int, devices: int) -> int:
    """The device of a chunk where chunks are dealt round and round."""
    return chunk % devices


def there_and_back(chunk: int, devices: int) -> int:
    """The device of a chunk where the second half of the network runs back over the devices (a V)."""
    return chunk if chunk < devices else 2 * devices - 1 - chunk


@dataclass(frozen=True)
class Schedule:
    """A named schedule of one training step.

    Attributes:
        order: (device, devices, batch) → the codes of its operations; None for block-local, which has no order to keep.
        chunks: per device; None for the caller's choice.
        place: (chunk, devices) → its device.
        flush: no device starts a step before all have ended the last one. Without, a device goes on to the next step
            when its own is done, which needs an optimiser that does not wait for the others (Qi et al. 2023, §4).
    """

    name: str
    summary: str
    order: Callable[[int, int, MicroBatches], Codes] | None
    chunks: int | None = 1
    place: Callable[[int, int], int] = in_turns
    flush: bool = True


SCHEDULES: Registry[Schedule] = Registry("schedule")
for _schedule in (
    Schedule("gpipe", "all forward, then all backward", orders.gpipe),
    Schedule("1f1b", "one forward, one backward", orders.one_forward_one_backward),
    Schedule("interleaved", "1F1B over several chunks per device", orders.interleaved, chunks=None),
    Schedule("zb-h1", "weight gradients delayed, memory of 1F1B", orders.zero_bubble(1)),
    Schedule("zb-h2", "the same with about twice the memory", orders.zero_bubble(2), flush=False),
    Schedule("zb-v", "two chunks per device in a V", orders.zero_bubble_v, 2, there_and_back, flush=False),
    Schedule(BLOCK_LOCAL, "every block learns by itself", None, flush=False),
):
    SCHEDULES.add(_schedule.name, _schedule)
