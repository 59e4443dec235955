"""A decoder trained block by block, beside block-local learning in memory, backprop, and backprop that streams.

    python benchmarks/streaming.py                            # all parts: 302 million parameters, about half an hour
    python benchmarks/streaming.py --check --json rows.json   # exits 1 and names each figure that falls short
    python benchmarks/streaming.py --size small               # the same with a tiny decoder: does it run?
    python benchmarks/streaming.py --only peers depth         # some of the parts
    python benchmarks/streaming.py --limit 2GiB               # the same decoder where backprop runs out of memory

The parts:

    peers   memory, time, bytes moved and final weights of every way to train
    depth   16, 32 and 64 layers of one width: does memory grow?
    soak    200 visits: does memory grow?
    limit   under a limit of the address space (RLIMIT_AS, which also counts libraries and stacks of threads)

A causal decoder on the bytes of the sources of Python's standard library, cut into one block per layer (the first has
the embedding too, the last the head), AdamW, float32. Every way to train runs in a process of its own. Those that are
timed against each other take turns, round after round, after a first step that does not count; a ratio compares two
times of one round. Memory is the peak of resident memory beyond the interpreter with torch loaded, and holds all there
is: weights, gradients, states, activations, code, and what the allocator keeps. "Weights read" are the model's own,
fetched from the store; "all moved" are all bytes that come and go: optimiser states and the twins of block-local
learning too.

What streams keeps its layers in files below --store. Block by block writes them as it always does: with a checksum of
every byte, beside the old ones, and flushed to the disk before a chunk counts. Streamed backprop changes plain files in
place (`streaming_peers/streamed_backprop.py`).
"""

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from common import Row, finish
from streaming_peers import BACKPROP, CHECKPOINTED, FSDP, IN_MEMORY, STREAMED, STREAMED_BACKPROP, Size, Task
from streaming_peers.base import text

WORKER = Path(__file__).with_name("streaming_worker.py")
PARTS = ("peers", "depth", "soak", "limit")
ONCE = "block by block, N = 1"
MIB = 2**20
# the figures of issue 19
MEMORY, TIME, TIME_STREAMED = 0.20, 1.05, 0.70
READ = {1: 1 / 2, 16: 1 / 30}
DEPTH, SOAK_MIB = 1.05, 4.0
LIMITED_VISIT = 2


@dataclass(frozen=True)
class Scale:
    """How much is measured. visit: N; rounds and steps: of what is timed; soak: visits."""

    size: Size
    visit: int
    rounds: int
    steps: int
    depth: Size
    layers: tuple[int, ...]
    soak: Size
    visits: int


SCALES = {
    "full": Scale(
        Size(24, 1024, 16, 4, 128), 16, 2, 3, Size(0, 512, 8, 2, 64), (16, 32, 64), Size(4, 256, 4, 2, 64), 200
    ),
    "small": Scale(Size(4, 64, 2, 2, 32), 4, 2, 2, Size(0, 64, 2, 2, 32), (4, 8, 16), Size(2, 64, 2, 2, 32), 40),
}


class OutOfMemory(Exception):
    """What a peer said when it could not get more memory."""


class Process:
    """One peer at work; see `streaming_worker.py`. Leave it with `with`."""

    def __init__(self, peer: str, task: Task, threads: int, limit: int | None = None):
        self.peer, self._folder = peer, tempfile.TemporaryDirectory(prefix="streaming-", dir=task.store)
        own = asdict(replace(task, store=self._folder.name))
        given = json.dumps({"peer": peer, "task": own, "threads": threads, "limit": limit})
        command = [sys.executable, str(WORKER), given]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()

    def ready(self) -> None:
        """Wait until the network is made."""
        self._answer()

    def take(self, steps: int) -> dict[str, Any]:
        """Take steps; seconds, loss, bytes moved, memory."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{steps}\n")
        self._process.stdin.flush()
        answer = self._answer()
        print(
            f"    {self.peer:28} {steps:3} steps {answer['seconds']:8.2f} s ({answer['cpu']:.2f} s of CPU)",
            file=sys.stderr,
            flush=True,
        )
        return answer

    def end(self) -> dict[str, Any]:
        """Peak memory, hash of the weights, number of steps."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.peer} ended with exit code {self._process.wait()}")
        answer = json.loads(line)
        if "out_of_memory" in answer:
            raise OutOfMemory(answer["out_of_memory"])
        return answer


# --- peers


def peers(arguments: argparse.Namespace) -> list[Row]:
    scale = arguments.scale
    task = Task(scale.size, arguments.store, visit=scale.visit, device=arguments.device)
    if arguments.device != "cpu":
        groups = [{STREAMED: task}, {BACKPROP: task}, {FSDP: task}]
    else:
        groups = [
            {STREAMED: task, IN_MEMORY: task, STREAMED_BACKPROP: task},
            {ONCE: replace(task, visit=1)},
            {BACKPROP: task},
            {CHECKPOINTED: task},
        ]
    rows = list[Row]()
    for group in groups:
        rows += together(group, scale, arguments)
    return [row | _ratios(row, rows) for row in rows]


def together(tasks: Mapping[str, Task], scale: Scale, arguments: argparse.Namespace) -> list[Row]:
    """A row per peer of a group; within a round they take their steps in turn."""
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in tasks}
    with ExitStack() as stack:
        processes = {}
        for name, task in tasks.items():
            process = stack.enter_context(Process(STREAMED if name == ONCE else name, task, arguments.threads))
            process.ready()
            process.take(1)
            processes[name] = process
        for _ in range(scale.rounds):
            for name, process in processes.items():
                long = name in (STREAMED, IN_MEMORY) and len(tasks) > 1
                rounds[name].append(process.take(scale.visit if long else scale.steps))
        ends = {name: process.end() for name, process in processes.items()}
    return [_row(name, rounds[name], ends[name], tasks[name]) for name in tasks]


def _row(name: str, rounds: Sequence[dict[str, Any]], end: dict[str, Any], task: Task) -> Row:
    seconds = [each["seconds"] / each["steps"] for each in rounds]
    steps = sum(each["steps"] for each in rounds)
    moved = {kind: sum(each["moved"][kind] for each in rounds) / steps for kind in rounds[0]["moved"]}
    return {
        "part": "peers",
        "method": name,
        "peak_bytes": end["peak"],
        "seconds_per_step": statistics.median(seconds),
        "seconds_of_rounds": seconds,
        "cpu_seconds_per_step": sum(each["cpu"] for each in rounds) / steps,
        "tokens_per_second": task.size.samples * task.size.length / statistics.median(seconds),
        **{f"{kind}_bytes_per_step": value for kind, value in moved.items()},
        "steps": end["steps"],
        "loss": rounds[-1]["loss"],
        "weights": end["digest"],
    }


def _ratios(row: Row, rows: Sequence[Row]) -> Row:
    """Of block by block to this row: memory, time (round by round where they took turns), weights read."""
    ours = {each["method"]: each for each in rows}.get(STREAMED)
    if ours is None:
        return {}
    pairs = zip(ours["seconds_of_rounds"], row["seconds_of_rounds"], strict=True)
    found: Row = {
        "memory_ratio": ours["peak_bytes"] / row["peak_bytes"],
        "time_ratio": statistics.median(a / b for a, b in pairs),
    }
    if row["method"] == STREAMED_BACKPROP:
        for each in rows:
            if each["method"] in (STREAMED, ONCE):
                ratio = each["weights_read_bytes_per_step"] / row["weights_read_bytes_per_step"]
                found["read_ratio" if each["method"] == STREAMED else "read_ratio_once"] = ratio
    return found


def short_of_peers(rows: Sequence[Row], visit: int) -> list[str]:
    of = {row["method"]: row for row in rows if row["part"] == "peers"}
    found = [
        f"{STREAMED}: memory {of[name]['memory_ratio']:.3f} × {name}, above {MEMORY}"
        for name in (IN_MEMORY, CHECKPOINTED)
        if name in of and of[name]["memory_ratio"] > MEMORY
    ]
    for name, limit in ((IN_MEMORY, TIME), (STREAMED_BACKPROP, TIME_STREAMED)):
        if name in of and of[name]["time_ratio"] > limit:
            found.append(f"{STREAMED}: time {of[name]['time_ratio']:.3f} × {name}, above {limit}")
    if IN_MEMORY in of and of[STREAMED]["weights"] != of[IN_MEMORY]["weights"]:
        found.append(f"{STREAMED}: weights {of[STREAMED]['weights']}, in memory {of[IN_MEMORY]['weights']}")
    for name, steps in (("read_ratio_once", 1), ("read_ratio", visit)):
        limit, ratio = READ.get(steps), of.get(STREAMED_BACKPROP, {}).get(name)
        if limit is not None and ratio is not None and ratio > limit:
            found.append(f"{STREAMED}, N = {steps}: weights read {ratio:.4f} × {STREAMED_BACKPROP}, above {limit:.4f}")
    return found


def show_peers(rows: Sequence[Row]) -> None:
    head = f"{'peak MiB':>9} {'s/step':>8} {'weights read':>13} {'all moved':>10}  weights"
    print(f"{'method':28} {head}    ours ÷ this: memory, time")
    for row in rows:
        moved = (row["all_read_bytes_per_step"] + row["all_written_bytes_per_step"]) / MIB
        print(
            f"{row['method']:28} {row['peak_bytes'] / MIB:9.0f} {row['seconds_per_step']:8.2f} "
            f"{row['weights_read_bytes_per_step'] / MIB:9.0f} MiB {moved:6.0f} MiB  {row['weights']} ({row['steps']} "
            f"steps)  {row.get('memory_ratio', float('nan')):.3f} {row.get('time_ratio', float('nan')):.3f}"
        )
        for name, words in (("read_ratio_once", "N = 1"), ("read_ratio", "N as above")):
            if name in row:
                print(f"{'':28} weights that block by block reads, {words}: {row[name]:.4f} × those of this one")


# --- depth and soak


def depth(arguments: argparse.Namespace) -> list[Row]:
    """Peak memory of networks of different depth, whose blocks are alike."""
    scale, rows = arguments.scale, list[Row]()
    for layers in scale.layers:
        task = Task(replace(scale.depth, layers=layers), arguments.store, visit=4, device=arguments.device)
        with Process(STREAMED, task, arguments.threads) as process:
            process.ready()
            process.take(1)
            process.take(4)
            peak = process.end()["peak"]
        rows.append({"part": "depth", "layers": layers, "width": task.size.width, "peak_bytes": peak})
        print(f"{layers:3} layers of width {task.size.width}: peak {peak / MIB:.1f} MiB", flush=True)
    return rows


def short_of_depth(rows: Sequence[Row]) -> list[str]:
    peaks = {row["layers"]: row["peak_bytes"] for row in rows if row["part"] == "depth"}
    if not peaks or peaks[max(peaks)] <= DEPTH * peaks[min(peaks)]:
        return []
    return [f"{max(peaks)} layers: peak {peaks[max(peaks)] / peaks[min(peaks)]:.3f} × that of {min(peaks)} layers"]


def soak(arguments: argparse.Namespace) -> list[Row]:
    """Memory over many visits, at ten points."""
    scale, rows = arguments.scale, list[Row]()
    task = Task(scale.soak, arguments.store, visit=4, device=arguments.device)
    chunks = scale.visits // task.size.layers
    with Process(STREAMED, task, arguments.threads) as process:
        process.ready()
        for chunk in range(1, chunks + 1):
            answer = process.take(4)
            if chunk in {chunks * k // 10 for k in range(1, 11)}:
                visits = chunk * task.size.layers
                rows.append({"part": "soak", "visits": visits, "now": answer["now"], "peak_bytes": answer["peak"]})
                print(
                    f"{visits:5} visits: {answer['now'] / MIB:.2f} MiB now, {answer['peak'] / MIB:.2f} MiB at the peak",
                    flush=True,
                )
    return rows


def short_of_soak(rows: Sequence[Row]) -> list[str]:
    seen = [row for row in rows if row["part"] == "soak"]
    if not seen:
        return []
    grown = (seen[-1]["peak_bytes"] - seen[0]["peak_bytes"]) / MIB
    return [f"soak: the peak grew by {grown:.2f} MiB, above {SOAK_MIB}"] if grown > SOAK_MIB else []


# --- limit


def limit(arguments: argparse.Namespace) -> list[Row]:
    """Who completes under a limit of the address space. Visits are short: their messages lie in memory."""
    scale, rows = arguments.scale, list[Row]()
    visit = min(scale.visit, LIMITED_VISIT)
    task = Task(scale.size, arguments.store, visit=visit)
    for name in (STREAMED, BACKPROP, CHECKPOINTED):
        row: Row = {"part": "limit", "method": name, "limit_bytes": arguments.limit}
        try:
            with Process(name, task, arguments.threads, arguments.limit) as process:
                process.ready()
                process.take(1)
                loss = process.take(visit)["loss"]
                row |= {"completed": True, "loss": loss, **process.end()}
        except OutOfMemory as error:
            row |= {"completed": False, "error": str(error)}
        rows.append(row)
        print(f"under {arguments.limit / 2**30:g} GiB of address space, {name}: {_said(row)}", flush=True)
    return rows


def _said(row: Row) -> str:
    if not row["completed"]:
        return f"out of memory: {row['error']}"
    return f"completed {row['steps']} steps, loss {row['loss']:.4f}, peak {row['peak'] / MIB:.0f} MiB, {row['digest']}"


def short_of_limit(rows: Sequence[Row]) -> list[str]:
    wanted = {STREAMED: True, BACKPROP: False}
    return [
        f"{row['method']} {'completed' if row['completed'] else 'ran out of memory'} under the limit"
        for row in rows
        if row["part"] == "limit" and wanted.get(row["method"], row["completed"]) != row["completed"]
    ]


# --- the command


def conditions(arguments: argparse.Namespace) -> Row:
    size = arguments.scale.size
    parameters = 12 * size.layers * size.width**2 + (2 * 256 + size.length) * size.width
    return {
        "model": f"decoder of {size.layers} layers of width {size.width}, {parameters / 1e6:.0f} million parameters",
        "batch": f"{size.samples} × {size.length} tokens",
        "data": text()[1],
        "visit": arguments.scale.visit,
        "blocks_in_memory": Task.most,
        "device": arguments.device,
        "threads": arguments.threads,
        "cores": len(os.sched_getaffinity(0)),
        "machine": platform.platform(),
        "torch": torch.__version__,
    }


def size_in_bytes(given: str) -> int:
    found = re.fullmatch(r"([\d.]+) ?([MG])iB", given)
    if not found:
        raise argparse.ArgumentTypeError(f"{given!r} is no size such as 2GiB or 512MiB")
    return int(float(found[1]) * {"M": 2**20, "G": 2**30}[found[2]])


def parse() -> argparse.Namespace:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--check", action="store_true", help="exit 1 and name each figure that falls short")
    flags.add_argument("--json", type=Path, help="write the rows to this file")
    flags.add_argument("--size", choices=SCALES, default="full", help="how large a decoder")
    flags.add_argument("--only", nargs="+", choices=PARTS, help="some of the parts")
    flags.add_argument("--limit", type=size_in_bytes, help="only the part `limit`, with this limit, such as 2GiB")
    flags.add_argument("--store", default="/var/tmp", help="a folder on the disk for what streams")
    flags.add_argument("--threads", type=int, default=2, help="CPU threads")
    flags.add_argument("--visit", type=int, help="N, the steps that a block takes in a row (default: as the size says)")
    flags.add_argument("--rounds", type=int, help="how often the timed peers take turns (default: as the size says)")
    flags.add_argument("--device", default="cpu", help="cpu, or cuda (not tried yet), with host memory as the store")
    arguments = flags.parse_args()
    scale = SCALES[arguments.size]
    arguments.scale = replace(scale, visit=arguments.visit or scale.visit, rounds=arguments.rounds or scale.rounds)
    arguments.parts = arguments.only or (["limit"] if arguments.limit else list(PARTS))
    arguments.limit = arguments.limit or 2**31
    return arguments


def main() -> int:
    arguments = parse()
    of, rows = conditions(arguments), list[Row]()
    print("\n".join(f"{name}: {value}" for name, value in of.items()), flush=True)
    for part in arguments.parts:
        found = {"peers": peers, "depth": depth, "soak": soak, "limit": limit}[part](arguments)
        if part == "peers":
            show_peers(found)
        rows += [row | of for row in found]
        if arguments.json:
            arguments.json.write_text(json.dumps(rows, indent=1) + "\n")
    short = [
        *short_of_peers(rows, arguments.scale.visit),
        *short_of_depth(rows),
        *short_of_soak(rows),
        *short_of_limit(rows),
    ]
    return finish(rows, arguments, short)


if __name__ == "__main__":
    sys.exit(main())
