"""One training step in one process: time, and the bytes autograd keeps at the peak, as ratios to backprop.

    python benchmarks/step.py                  # prints the table
    python benchmarks/step.py --check          # exits 1 and names each row that falls short
    python benchmarks/step.py --json rows.json

ResNet-18 of width 16 on batches of 3×32×32 noise, 4 blocks cut for equal bytes. Every method takes a few steps in turn,
round after round, and a ratio compares the two times of one round, so that a slow moment of the machine hits both.
"""

import argparse
import sys

import torch
from common import alternate, conditions, finish, kept, parser, shortfalls, spread, time_figures

import blocklocal as bl

# (name, settings, largest time and bytes relative to backprop)
METHODS: list[tuple[str, dict, float | None, float | None]] = [
    ("backprop", {"rule": "backprop"}, None, None),
    ("block-local", {}, 1.25, 0.45),
    ("block-local, readout 1", {"readout": 1}, 1.25, 0.45),
    ("block-local, no readout", {"readout": 0}, 1.15, 0.45),
]


def build(settings: dict, batch: int, width: int, device: torch.device) -> bl.BlockLocal:
    """The same ResNet-18, cut in 4 for equal bytes, under one rule."""
    torch.manual_seed(0)
    model = bl.build_model("resnet18", classes=10, channels=3, image_size=(32, 32), width=width)
    cut = bl.split(model, 4, balance="bytes", example=torch.zeros(batch, 3, 32, 32))
    network = bl.BlockLocal(cut, classes=10, optimizer=bl.sgd(0.01, weight_decay=5e-4), **settings)
    return network.to(device, memory_format=torch.channels_last)  # pyrefly: ignore


def measure(arguments: argparse.Namespace) -> list[dict]:
    device = torch.device(arguments.device)
    torch.manual_seed(1)
    x = torch.randn(arguments.batch, 3, 32, 32, device=device).contiguous(memory_format=torch.channels_last)
    y = torch.randint(0, 10, (arguments.batch,), device=device)
    networks = {name: build(s, arguments.batch, arguments.width, device) for name, s, _, _ in METHODS}
    sizes = {name: kept(network, x, y) for name, network in networks.items()}  # also warms up
    times = alternate(networks, x, y, rounds=arguments.rounds, steps=arguments.steps)
    base = METHODS[0][0]
    rows = []
    for name, _, time_limit, bytes_limit in METHODS:
        row = {
            "method": name,
            **time_figures(times[name], times[base]),
            "bytes": sizes[name],
            "bytes_ratio": sizes[name] / sizes[base],
            "time_limit": time_limit,
            "bytes_limit": bytes_limit,
        }
        of = {"model": f"resnet18 width {arguments.width}", "blocks": 4, "batch": arguments.batch}
        rows.append(row | of | conditions(arguments))
    return rows


def show(rows: list[dict]) -> None:
    first = rows[0]
    print(
        f"{first['model']}, {first['blocks']} blocks cut for equal bytes, batch {first['batch']}, {first['device']}, "
        f"{first['threads']} threads, torch {first['torch']}, median of {first['rounds']} alternating rounds"
    )
    print(f"{'method':24} {'ms/step':>8}  {'time ÷ backprop':>24}  {'kept MiB':>8}  {'bytes ÷ backprop':>16}")
    for row in rows:
        print(
            f"{row['method']:24} {1000 * row['seconds_per_step']:8.1f}  {spread(row):>24}  "
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
