"""Results side by side: the table in the terminal, and the rows of the JSON file."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from blocklocal._common.limits import in_bytes
from blocklocal.simulate.run import Result

if TYPE_CHECKING:
    from rich.console import Console

HEADINGS = ("devices", "schedule", "parts", "s/batch", "batch/s", "samples/s", "idle", "memory", "wire", "fill")


def row(result: Result, batch_size: int | None) -> dict[str, Any]:
    """A result as a JSON object; samples_per_second is null where the batch size is not known."""
    rate = result.batches_per_second
    samples = None if batch_size is None else batch_size * rate
    return {**asdict(result), "batches_per_second": rate, "samples_per_second": samples}


def print_table(results: Sequence[Result], batch_size: int | None, console: "Console") -> None:
    """One line per device count and schedule; columns that hold nothing are left out.

    The column "parts" has the micro-batches, "memory" that of activations on the device with most, "wire" the bytes per
    batch.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    lines = [_cells(result, batch_size) for result in results]
    used = [i for i in range(len(HEADINGS)) if any(line[i] for line in lines)]
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=0)
    for i in used:
        table.add_column(HEADINGS[i], justify="left" if HEADINGS[i] == "schedule" else "right", no_wrap=True)
    for result, line, following in zip(results, lines, [*results[1:], None], strict=True):
        ends = following is not None and following.devices != result.devices
        table.add_row(*(line[i] for i in used), end_section=ends)
    console.print(table)


def _cells(result: Result, batch_size: int | None) -> list[str]:
    rate = result.batches_per_second
    return [
        str(result.devices),
        result.schedule,
        str(result.micro_batches),
        f"{result.step_seconds:.4g}",
        f"{rate:.4g}" if batch_size is None else "",
        "" if batch_size is None else f"{batch_size * rate:.4g}",
        f"{100 * result.idle_share:.1f} %",
        in_bytes(result.activation_bytes) if result.activation_bytes else "",
        in_bytes(result.wire_bytes) if result.wire_bytes else "",
        "" if result.fill_seconds is None else f"{result.fill_seconds:.3g} s",
    ]
