"""One training step in one process: time, and the bytes autograd keeps at the peak, as ratios to backprop.

    python benchmarks/step.py                  # prints the table
    python benchmarks/step.py --check          # exits 1 and names each row that falls short
    python benchmarks/step.py --json rows.json

ResNet-18 of width 16 on batches of 3×32×32 noise, 4 blocks (one row: 8) cut for equal bytes. Every method takes a few
steps in turn, round after round, and a ratio compares the two times of one round, so that a slow moment of the machine
hits both.
"""

import argparse
import sys
from dataclasses import dataclass, field
from typing import Any

import torch
from common import alternate, conditions, finish, kept, parser, shortfalls, spread, time_figures

import blocklocal as bl


@dataclass(frozen=True)
class Method:
    """A row: settings of the network, and the largest time and bytes relative to backprop that are wanted."""

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    blocks: int = 4
    time_limit: float | None = None
    bytes_limit: float | None = None


METHODS = (
    Method("backprop", {"rule": "backprop"}),
    Method("block-local", time_limit=1.25, bytes_limit=0.45),
    Method("block-local, readout 1", {"readout": 1}, time_limit=1.25, bytes_limit=0.45),
    Method("block-local, no readout", {"readout": 0}, time_limit=1.15, bytes_limit=0.45),
    Method("block-local, neighbour scope", {"scope": "neighbour"}),
    Method("block-local, 8 blocks", blocks=8),
)


def build(method: Method, batch: int, width: int, device: torch.device) -> bl.BlockLocal:
    """The same ResNet-18, cut for equal bytes, under one rule."""
    torch.manual_seed(0)
    model = bl.build_model("resnet18", classes=10, channels=3, image_size=(32, 32), width=width)
    cut = bl.split(model, method.blocks, balance="bytes", example=torch.zeros(batch, 3, 32, 32))
    network = bl.BlockLocal(cut, classes=10, optimizer=bl.sgd(0.01, weight_decay=5e-4), **method.settings)
    return network.to(device, memory_format=torch.channels_last)  # pyrefly: ignore


def measure(arguments: argparse.Namespace) -> list[dict]:
    device = torch.device(arguments.device)
    torch.manual_seed(1)
    x = torch.randn(arguments.batch, 3, 32, 32, device=device).contiguous(memory_format=torch.channels_last)
    y = torch.randint(0, 10, (arguments.batch,), device=device)
    networks = {each.name: build(each, arguments.batch, arguments.width, device) for each in METHODS}
    sizes = {name: kept(network, x, y) for name, network in networks.items()}  # also warms up
    times = alternate(networks, x, y, rounds=arguments.rounds, steps=arguments.steps)
    base = METHODS[0].name
    rows = []
    for each in METHODS:
        row = {
            "method": each.name,
            **time_figures(times[each.name], times[base]),
            "bytes": sizes[each.name],
            "bytes_ratio": sizes[each.name] / sizes[base],
            "time_limit": each.time_limit,
            "bytes_limit": each.bytes_limit,
        }
        of = {"model": f"resnet18 width {arguments.width}", "blocks": each.blocks, "batch": arguments.batch}
        rows.append(row | of | conditions(arguments))
    return rows


def show(rows: list[dict]) -> None:
    first = rows[0]
    print(
        f"{first['model']}, cut for equal bytes (4 blocks where none are named), batch {first['batch']}, "
        f"{first['device']}, {first['threads']} threads, torch {first['torch']}, "
        f"median of {first['rounds']} alternating rounds"
    )
    print(f"{'method':28} {'ms/step':>8}  {'time ÷ backprop':>24}  {'kept MiB':>8}  {'bytes ÷ backprop':>16}")
    for row in rows:
        print(
            f"{row['method']:28} {1000 * row['seconds_per_step']:8.1f}  {spread(row):>24}  "
            f"{row['bytes'] / 2**20:8.1f}  {row['bytes_ratio']:16.3f}"
        )


def main() -> int:
    flags = parser(__doc__, rounds=7, steps=5)
    flags.add_argument("--batch", type=int, default=128, help="images per step")
    flags.add_argument("--width", type=int, default=16, help="channels of the first stage")
    arguments = flags.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    rows = measure(arguments)
    show(rows)
    return finish(rows, arguments, shortfalls(rows))


if __name__ == "__main__":
    sys.exit(main())
