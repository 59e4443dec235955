"""What a training step keeps in memory, and for how much time: backprop, checkpointing, and block-local learning.

    python benchmarks/memory.py                      # all networks: three tables
    python benchmarks/memory.py --only transformer   # one of them
    python benchmarks/memory.py --check --json rows.json
    python benchmarks/memory.py --largest-batch      # CUDA: the largest batch that fits, for each method
    python benchmarks/memory.py --soak               # 2,000 steps: does memory grow?

ResNet-110 (CIFAR style, width 16) and a transformer of 20 blocks, block-local without readout, and a decoder of 12
layers and 4,096 tokens, with and without readouts, and with losses over an eighth of the tokens that a batch does not
hold ("few negatives"); cut in K blocks for equal bytes. Kept: the peak of
the bytes that autograd holds during a step, what checkpointing builds on its second run included. Peak and in use: the
memory of a process of its own, with and without what the allocator holds back (`peak.py` says what is in it). Times:
every method takes a few steps in turn, round after round, and a ratio compares the two times of one round. On a busy
machine the networks are better measured one by one, with `--only`.

The limits of `--check` are on kept bytes (0.57, 0.40, 0.32 and 0.20 × backprop at K = 2, 3, 4 and 8) and on time
(1.10 × backprop). Published on ResNet-110: 0.57, 0.45 and 0.37 at K = 2, 3 and 4 in 1.01, 1.08 and 1.13 × the time
(InfoPro, Wang et al. 2021, arXiv 2101.10832); checkpointing 0.42 in 1.275 ×. Of the decoder: 0.40 × the bytes in 1.35 ×
the time at K = 4 with readouts of two layers and few negatives.
"""

import argparse
import statistics
import sys
from collections.abc import Sequence

import peak
import soak
import torch
from common import Row, alternate, conditions, finish, kept, parser, shortfalls, spread, time_figures
from memory_networks import CASES, Case, Method, build, methods_of

ROUNDS_FOR_CHECK = 5


def measure(case: Case, arguments: argparse.Namespace, methods: Sequence[Method] = ()) -> list[Row]:
    """A row per method; the first is what the others are compared with."""
    methods = methods or methods_of(case)
    device, batch = torch.device(arguments.device), arguments.batch or case.batch
    x, y = case.on(device, batch)
    networks = {method.name: build(case, method, device) for method in methods}
    sizes = {name: kept(network, x, y) for name, network in networks.items()}  # also warms up
    times = alternate(networks, x, y, rounds=arguments.rounds, steps=arguments.steps)
    networks.clear()
    highest = peaks(case, batch, arguments, methods)
    base = methods[0].name
    return [
        {
            "model": case.name,
            "method": method.name,
            "blocks": method.blocks,
            **time_figures(times[method.name], times[base]),
            "bytes": sizes[method.name],
            "bytes_ratio": sizes[method.name] / sizes[base],
            **{f"{kind}_bytes": highest[method.name][kind] for kind in peak.KINDS},
            **{f"{kind}_ratio": _ratio(highest[method.name][kind], highest[base][kind]) for kind in peak.KINDS},
            "time_limit": method.time_limit,
            "bytes_limit": method.bytes_limit,
            "batch": batch,
            "peak_runs": arguments.peaks,
            "words": case.words,
            **conditions(arguments),
        }
        for method in methods
    ]


def peaks(
    case: Case, batch: int, arguments: argparse.Namespace, methods: Sequence[Method]
) -> dict[str, dict[str, float | None]]:
    """The medians over `--peaks` measurements of each method, which take turns; None where there is none."""
    found: dict[str, list[dict[str, int]]] = {method.name: [] for method in methods}
    for _ in range(arguments.peaks):
        for method in methods:
            found[method.name].append(peak.peaks(case, method, batch, arguments.device, torch.get_num_threads()))
    return {name: {kind: _median([one[kind] for one in each]) for kind in peak.KINDS} for name, each in found.items()}


def _median(values: Sequence[int]) -> float | None:
    return statistics.median(values) if values else None


def _ratio(value: float | None, base: float | None) -> float | None:
    return value / base if value is not None and base else None


def show(rows: list[Row]) -> None:
    first = rows[0]
    print(
        f"{first['words']}; cut for equal bytes, batch {first['batch']}, {first['device']}, {first['threads']} "
        f"threads, torch {first['torch']}; median of {first['rounds']} alternating rounds of {first['steps']} steps, "
        f"peaks of {first['peak_runs']} runs in processes of their own"
    )
    head = f"{'÷ backprop':>10}"
    print(
        f"{'method':28} {'ms/step':>8} {'time ÷ backprop':>20} {'kept MiB':>9} {head} {'peak MiB':>9} {head} "
        f"{'in use':>9} {head}"
    )
    for row in rows:
        memory = [f"{_mib(row[f'{kind}_bytes'])} {_number(row[f'{kind}_ratio'])}" for kind in peak.KINDS]
        print(
            f"{row['method']:28} {1000 * row['seconds_per_step']:8.1f} {spread(row):>20} "
            f"{_mib(row['bytes'])} {_number(row['bytes_ratio'])} {' '.join(memory)}"
        )
    print(flush=True)


def _mib(size: float | None) -> str:
    return f"{'–':>9}" if size is None else f"{size / 2**20:9.1f}"


def _number(value: float | None) -> str:
    return f"{'–':>10}" if value is None else f"{value:10.3f}"


def compare(cases: Sequence[Case], arguments: argparse.Namespace) -> int:
    """Times and bytes of every method."""
    rows, short = [], []
    for case in cases:
        found = measure(case, arguments)
        show(found)
        rows += found
        short += [f"{case.name}, {line}" for line in shortfalls(found)]
    return finish(rows, arguments, short)


def largest_batches(cases: Sequence[Case], arguments: argparse.Namespace) -> int:
    """The largest batch of every method, each found in a process of its own."""
    rows: list[Row] = []
    of = conditions(arguments)  # first, because it makes torch take memory of the GPU for this process
    for case in cases:
        sizes: dict[str, int] = {}
        methods = methods_of(case)
        for method in methods:
            size = sizes[method.name] = peak.apart(peak.largest_batch, case, method, arguments.device)
            ratio = _ratio(size, sizes[methods[0].name])
            rows.append({"model": case.name, "method": method.name, "largest_batch": size, "ratio": ratio})
            rows[-1] |= {"words": case.words, **of}
            print(f"{case.name:12} {method.name:28} {size:8} samples {_number(ratio)} × backprop", flush=True)
    return finish(rows, arguments, [])


def soaked(arguments: argparse.Namespace) -> int:
    """The long run, in one process and in two."""
    head = f"{'':16} {'step':>8} {'now':>10} {'peak':>10}"
    print(f"{soak.WORDS}, {arguments.device}: memory in MiB\n{head}", flush=True)
    alone = peak.apart(soak.soak, arguments.soak, arguments.device, torch.get_num_threads())
    runs = [alone, *soak.soak_spread(arguments.soak, arguments.device)]
    for rows in runs:
        grown = soak.growth(rows)
        after = f"growth after step {rows[0]['step']}"
        print(f"{rows[0]['who']}: {after} {grown['now']:.2f} MiB now, {grown['peak']:.2f} MiB at the peak")
    of = {"words": soak.WORDS, "limit_mib": soak.GROWTH_LIMIT, **conditions(arguments)}
    short = [line for rows in runs for line in soak.shortfalls(rows)]
    return finish([row | of for rows in runs for row in rows], arguments, short)


def flags() -> argparse.ArgumentParser:
    found = parser(__doc__, rounds=5, steps=3)
    found.add_argument("--only", choices=CASES, help="one of the networks")
    found.add_argument("--batch", type=int, help="samples per step")
    found.add_argument("--peaks", type=int, default=1, help="processes per method that measure the peak (0: none)")
    found.add_argument("--largest-batch", action="store_true", help="only find the largest batch that fits (CUDA)")
    found.add_argument("--soak", type=int, nargs="?", const=2000, metavar="STEPS", help="only train for long and watch")
    return found


def refusal(arguments: argparse.Namespace) -> str | None:
    """Why these flags cannot be followed."""
    cuda = torch.device(arguments.device).type == "cuda"
    if arguments.largest_batch and not cuda:
        return (
            f"--largest-batch needs a GPU, not --device {arguments.device}: a CPU's memory is not given out by torch, "
            "and the system would end the process instead of refusing. Compare the peaks instead."
        )
    if arguments.soak is not None and arguments.soak < soak.POINTS:
        return f"--soak {arguments.soak}: give at least {soak.POINTS} steps, one per line that is printed."
    if arguments.check and arguments.soak is None and arguments.rounds < ROUNDS_FOR_CHECK:
        return f"--check with --rounds {arguments.rounds}: a check takes the median of at least {ROUNDS_FOR_CHECK}."
    if not cuda and not peak.available() and (arguments.soak is not None or arguments.peaks):
        return "this system has no /proc, from which memory is read (Linux): give --peaks 0, and no --soak."
    return None


def main() -> int:
    command = flags()
    arguments = command.parse_args()
    if reason := refusal(arguments):
        command.error(reason)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    cases = [CASES[arguments.only]] if arguments.only else list(CASES.values())
    if arguments.soak is not None:
        return soaked(arguments)
    return largest_batches(cases, arguments) if arguments.largest_batch else compare(cases, arguments)


if __name__ == "__main__":
    sys.exit(main())
