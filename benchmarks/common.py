"""What the benchmarks share: measuring a step, ratios of alternating rounds, the flags, and how a run ends."""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from blocklocal._common.memory import saved_bytes
from blocklocal._common.message import Input
from blocklocal.network.network import BlockLocal

Row = dict


def seconds(network: BlockLocal, x: Input, y: Tensor, steps: int) -> float:
    """Seconds per step."""
    wait: Callable[[], None] = partial(torch.cuda.synchronize, y.device) if y.is_cuda else lambda: None
    wait()
    start = time.perf_counter()
    for _ in range(steps):
        network.step(x, y)
    wait()
    return (time.perf_counter() - start) / steps


def kept(network: BlockLocal, x: Input, y: Tensor) -> int:
    """Peak bytes of distinct storages that autograd holds during one step, without parameters and buffers."""
    with saved_bytes(network) as count:
        network.step(x, y)
    return count.peak


def alternate(
    networks: Mapping[str, BlockLocal], x: Input, y: Tensor, *, rounds: int, steps: int
) -> dict[str, list[float]]:
    """Seconds per step of every network in every round; within a round they take their steps in turn."""
    times: dict[str, list[float]] = {name: [] for name in networks}
    for _ in range(rounds):
        for name, network in networks.items():
            times[name].append(seconds(network, x, y, steps))
    return times


def time_figures(times: Sequence[float], base: Sequence[float]) -> Row:
    """The median, and the ratio to the baseline: both times of one ratio are of one round."""
    ratios = [t / b for t, b in zip(times, base, strict=True)]
    return {
        "seconds_per_step": statistics.median(times),
        "time_ratio": statistics.median(ratios),
        "time_ratio_min": min(ratios),
        "time_ratio_max": max(ratios),
    }


def spread(row: Row) -> str:
    """The time ratio with its range, for a table."""
    return f"{row['time_ratio']:.3f} ({row['time_ratio_min']:.2f}–{row['time_ratio_max']:.2f})"


def shortfalls(rows: Sequence[Row]) -> list[str]:
    """A line for every figure above its limit."""
    found = []
    for row in rows:
        for kind in ("time", "bytes"):
            limit, ratio = row[f"{kind}_limit"], row[f"{kind}_ratio"]
            if limit is not None and ratio > limit:
                found.append(f"{row['method']}: {kind} {ratio:.3f} × backprop, above {limit}")
    return found


def parser(description: str | None, *, rounds: int, steps: int) -> argparse.ArgumentParser:
    """The flags of every benchmark."""
    flags = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--check", action="store_true", help="exit 1 and name each row that falls short")
    flags.add_argument("--json", type=Path, help="write the rows to this file")
    flags.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    flags.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    flags.add_argument("--rounds", type=int, default=rounds, help="alternating rounds")
    flags.add_argument("--steps", type=int, default=steps, help="steps per method and round")
    return flags


def conditions(arguments: argparse.Namespace) -> Row:
    on_gpu = torch.device(arguments.device).type == "cuda"
    return {
        "device": f"{arguments.device} ({torch.cuda.get_device_name(arguments.device)})"
        if on_gpu
        else arguments.device,
        "threads": torch.get_num_threads(),
        "rounds": arguments.rounds,
        "steps": arguments.steps,
        "torch": torch.__version__,
    }


def finish(rows: Sequence[Row], arguments: argparse.Namespace, short: Sequence[str]) -> int:
    """Write the rows where they are asked for; the exit code, after naming what falls short where that is checked."""
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")
    if not arguments.check:
        return 0
    for line in short:
        print(f"falls short: {line}", file=sys.stderr)
    return 1 if short else 0
