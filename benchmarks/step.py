"""One training step in one process: time, and the bytes autograd keeps at the peak, as ratios to backprop.

    python benchmarks/step.py                  # prints the table
    python benchmarks/step.py --check          # exits 1 and names each row that falls short
    python benchmarks/step.py --json rows.json

ResNet-18 of width 16 on batches of 3×32×32 noise, 4 blocks cut for equal bytes. Every method takes a few steps in turn,
round after round, and a ratio compares the two times of one round, so that a slow moment of the machine hits both.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import blocklocal as bl
from blocklocal.memory import saved_bytes

# (name, settings, largest time and bytes relative to backprop)
METHODS: list[tuple[str, dict, float | None, float | None]] = [
    ("backprop", {"rule": "backprop"}, None, None),
    ("block-local", {}, 1.15, 0.5),
    ("block-local, readout", {"readout": 1}, 1.30, 0.5),
]


def build(settings: dict, batch: int, width: int, device: torch.device) -> bl.BlockLocal:
    """The same ResNet-18, cut in 4 for equal bytes, under one rule."""
    torch.manual_seed(0)
    model = bl.build_model("resnet18", classes=10, channels=3, image_size=(32, 32), width=width)
    cut = bl.split(model, 4, balance="bytes", example=torch.zeros(batch, 3, 32, 32))
    network = bl.BlockLocal(cut, classes=10, optimizer=bl.sgd(0.01, weight_decay=5e-4), **settings)
    return network.to(device).to(memory_format=torch.channels_last)


def seconds(network: bl.BlockLocal, x: Tensor, y: Tensor, steps: int) -> float:
    """Seconds per step."""
    wait: Callable[[], None] = torch.cuda.synchronize if x.is_cuda else lambda: None
    wait()
    start = time.perf_counter()
    for _ in range(steps):
        network.step(x, y)
    wait()
    return (time.perf_counter() - start) / steps


def kept(network: bl.BlockLocal, x: Tensor, y: Tensor) -> int:
    """Peak bytes of distinct storages that autograd holds during one step, without parameters and buffers."""
    with saved_bytes(network) as count:
        network.step(x, y)
    return count.peak


def measure(arguments: argparse.Namespace) -> list[dict]:
    device = torch.device(arguments.device)
    torch.manual_seed(1)
    x = torch.randn(arguments.batch, 3, 32, 32, device=device).contiguous(memory_format=torch.channels_last)
    y = torch.randint(0, 10, (arguments.batch,), device=device)
    networks = {name: build(s, arguments.batch, arguments.width, device) for name, s, _, _ in METHODS}
    sizes = {name: kept(network, x, y) for name, network in networks.items()}  # also warms up
    times: dict[str, list[float]] = {name: [] for name in networks}
    for _ in range(arguments.rounds):
        for name, network in networks.items():
            times[name].append(seconds(network, x, y, arguments.steps))
    base = METHODS[0][0]
    rows = []
    for name, _, time_limit, bytes_limit in METHODS:
        ratios = [t / b for t, b in zip(times[name], times[base], strict=True)]
        row = {
            "method": name,
            "seconds_per_step": statistics.median(times[name]),
            "time_ratio": statistics.median(ratios),
            "time_ratio_min": min(ratios),
            "time_ratio_max": max(ratios),
            "bytes": sizes[name],
            "bytes_ratio": sizes[name] / sizes[base],
            "time_limit": time_limit,
            "bytes_limit": bytes_limit,
        }
        rows.append(row | conditions(arguments))
    return rows


def conditions(arguments: argparse.Namespace) -> dict:
    return {
        "model": f"resnet18 width {arguments.width}",
        "blocks": 4,
        "batch": arguments.batch,
        "device": arguments.device,
        "threads": torch.get_num_threads(),
        "rounds": arguments.rounds,
        "steps": arguments.steps,
        "torch": torch.__version__,
    }


def show(rows: list[dict]) -> None:
    first = rows[0]
    print(
        f"{first['model']}, {first['blocks']} blocks cut for equal bytes, batch {first['batch']}, {first['device']}, "
        f"{first['threads']} threads, torch {first['torch']}, median of {first['rounds']} alternating rounds"
    )
    print(f"{'method':24} {'ms/step':>8}  {'time ÷ backprop':>24}  {'kept MiB':>8}  {'bytes ÷ backprop':>16}")
    for row in rows:
        spread = f"{row['time_ratio']:.3f} ({row['time_ratio_min']:.2f}–{row['time_ratio_max']:.2f})"
        print(
            f"{row['method']:24} {1000 * row['seconds_per_step']:8.1f}  {spread:>24}  "
            f"{row['bytes'] / 2**20:8.1f}  {row['bytes_ratio']:16.3f}"
        )


def shortfalls(rows: list[dict]) -> list[str]:
    """A line for every figure above its limit."""
    found = []
    for row in rows:
        for kind in ("time", "bytes"):
            limit, ratio = row[f"{kind}_limit"], row[f"{kind}_ratio"]
            if limit is not None and ratio > limit:
                found.append(f"{row['method']}: {kind} {ratio:.3f} × backprop, above {limit}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="exit 1 and name each row that falls short")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    parser.add_argument("--batch", type=int, default=128, help="images per step")
    parser.add_argument("--width", type=int, default=16, help="channels of the first stage")
    parser.add_argument("--rounds", type=int, default=7, help="alternating rounds")
    parser.add_argument("--steps", type=int, default=5, help="steps per method and round")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    rows = measure(arguments)
    show(rows)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")
    short = shortfalls(rows) if arguments.check else []
    for line in short:
        print(f"falls short: {line}", file=sys.stderr)
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
