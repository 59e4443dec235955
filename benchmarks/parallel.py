"""Two processes on two cores: samples per second as ratios to block-local in one process of one thread.

    python benchmarks/parallel.py                                # prints the table
    python benchmarks/parallel.py --link 1gbit --link 100mbit    # also over emulated links (root, iproute2)
    python benchmarks/parallel.py --check                        # exits 1 and names each row that falls short
    python benchmarks/parallel.py --json rows.json

ResNet-56 (CIFAR style, width 32) on one batch of 3×32×32 noise; with `--model decoder --width 384 --batch 8` a decoder
of 24 million parameters, which are large beside its activations. Every method that cuts gets the cut that balances its
own halves best, by measured time; block-local has no readout. The processes of all methods are started once and asleep
but for those that are measured; each method takes a few steps in turn, round after round, and a ratio compares two
times of one round, so that a slow moment of the machine hits both. Times are per step once all processes of a method
are busy; "with fill" counts from the common start, so it holds the one step for which a pipeline fills (once in a
training run, here once in `--steps`). With a link, the two processes of a method run in two network namespaces joined
by it.
"""

import argparse
import json
import multiprocessing
import os
import signal
import statistics
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import torch
from network import Host, NoNetwork, bits_per_second, hosts
from peers import BACKPROP, METHODS, ONE_PROCESS, PARALLEL, PEERS, Method, Task
from peers.cuts import find_cuts
from peers.prediction import find_costs, predicted_speeds
from peers.workers import Timing, Workers

SPEED_UP = 1.85  # block-local in two processes ÷ in one, at least
PREDICTION = 0.10  # how far the simulator may be off
ROUNDS = 5  # alternating rounds behind a median that is checked, at least
WARM_UP = 3  # steps; the first ones choose kernels and agree on the shapes of messages
Times = dict[str, list[Timing]]


def measure(arguments: argparse.Namespace) -> list[dict]:
    task = Task(arguments.model, arguments.width, arguments.batch, arguments.device)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:  # this process itself stays idle
        cuts, balance = pool.submit(find_cuts, task).result()
        task = replace(task, cuts=cuts)
        costs = pool.submit(find_costs, task).result()
    conditions = describe(arguments) | {"cuts": cuts, "balance": balance}
    rows = []
    for link in (None, *arguments.link):
        try:
            times = measure_link(link, task, arguments)
        except NoNetwork as reason:
            print(f"no rows for --link {link}: {reason}", file=sys.stderr)
            continue
        rows += [row | conditions for row in link_rows(link, times, task.batch, predicted_speeds(costs, link))]
    return rows


def measure_link(link: str | None, task: Task, arguments: argparse.Namespace) -> Times:
    """Start every method, then go round; leaves no process and no namespace behind."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        places = [Host()] if link is None else stack.enter_context(hosts(2, link))
        workers: dict[str, Workers] = {}
        for i, method in enumerate(chosen(link, arguments)):
            print(f"starting {method.name}{'' if link is None else ', ' + link}", file=sys.stderr)
            (folder / str(i)).mkdir()
            entered = Workers(method, task, places if method.linked else [Host()], folder / str(i), WARM_UP)
            workers[method.name] = stack.enter_context(entered)
        check_losses(workers)
        times: Times = {name: [] for name in workers}
        for _ in range(arguments.rounds):
            for name, started in workers.items():
                times[name].append(started.run(arguments.steps))
        return times


def chosen(link: str | None, arguments: argparse.Namespace) -> list[Method]:
    """The baselines and what was asked for; over a link only methods that use it, on one GPU only single processes."""
    devices = torch.cuda.device_count() if arguments.device == "cuda" else 2
    found = []
    for method in METHODS:
        wanted = not arguments.only or any(part in method.name for part in arguments.only)
        possible = method.processes <= devices and not (arguments.device == "cuda" and method.threads > 1)
        if method.name in (ONE_PROCESS, BACKPROP) or (wanted and possible and (link is None or method.linked)):
            found.append(method)
    return found


def check_losses(workers: dict[str, Workers]) -> None:
    """A method that does not learn what it should has no time worth printing."""
    for name, started in workers.items():
        like = started.method.like
        if like in workers:
            loss, expected = started.warm_up_loss, workers[like].warm_up_loss
            if not abs(loss - expected) <= started.method.within * abs(expected):  # not: also for a loss of NaN
                raise RuntimeError(f"{name}: loss {loss:.4f} after warm-up, but {expected:.4f} under {like}.")


def link_rows(link: str | None, times: Times, batch: int, predicted: dict[str, float]) -> list[dict]:
    """A row per method, without the conditions; predicted: speeds by the simulator."""
    batches = {method.name: method.batches for method in METHODS}
    rows = []
    for name, timings in times.items():
        seconds = statistics.median(timing.seconds_per_step for timing in timings)
        row = {
            "method": name,
            "link": link,
            "seconds_per_step": seconds,
            "samples_per_second": batches[name] * batch / seconds,
            "loss": timings[-1].loss,
        }
        row |= spread("speed", ratios(times, name, ONE_PROCESS, batches))
        row |= spread("speed_with_fill", ratios(times, name, ONE_PROCESS, batches, fill=True))
        row |= spread("speed_backprop", ratios(times, name, BACKPROP, batches))
        if name in {peer.name for peer in PEERS} and PARALLEL in times:
            row |= spread("lead", ratios(times, PARALLEL, name, batches))
        if name in predicted:
            row |= {"predicted": predicted[name], "prediction_error": predicted[name] / row["speed"] - 1}
        rows.append(row)
    return rows


def ratios(times: Times, name: str, base: str, batches: dict[str, int], fill: bool = False) -> list[float]:
    """Samples per second relative to `base`, round by round."""
    pairs = zip(times[name], times[base], strict=True)
    each = [(b.seconds / t.seconds) if fill else (b.seconds_per_step / t.seconds_per_step) for t, b in pairs]
    return [batches[name] / batches[base] * ratio for ratio in each]


def spread(key: str, values: list[float]) -> dict:
    return {key: statistics.median(values), f"{key}_min": min(values), f"{key}_max": max(values)}


def describe(arguments: argparse.Namespace) -> dict:
    return {
        "model": f"{arguments.model} width {arguments.width}",
        "batch": arguments.batch,
        "device": arguments.device,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "rounds": arguments.rounds,
        "steps": arguments.steps,
        "torch": torch.__version__,
    }


def show(rows: list[dict]) -> None:
    first = rows[0]
    print(
        f"{first['model']}, batch {first['batch']}, {first['device']}, {first['cores']} cores, torch {first['torch']}, "
        f"median (and range) of {first['rounds']} alternating rounds of {first['steps']} steps"
    )
    cuts = (f"{key}: {name} ({first['balance'][key] - 1:.1%} over the mean)" for key, name in first["cuts"].items())
    print(f"second half starts with – {', '.join(cuts)}")
    widths = {"samples/s": 9, "× one process": 18, "simulated": 13, "with fill": 18, "× backprop": 18, "lead": 19}
    print(f"{'method':28} {'link':8} {'  '.join(f'{name:>{width}}' for name, width in widths.items())}")
    for row in rows:
        speeds = [f"{figure(row, key):>18}" for key in ("speed", "speed_with_fill", "speed_backprop")]
        guess = f"{row['predicted']:.2f} ({row['prediction_error']:+.0%})" if "predicted" in row else ""
        speeds.insert(1, f"{guess:>13}")
        lead = figure(row, "lead") if "lead" in row else ""
        samples = f"{row['samples_per_second']:9.1f}"
        print(f"{row['method']:28} {row['link'] or '–':8} {samples}  {'  '.join(speeds)}  {lead:>19}")
    for link, lead in leads(rows).items():
        print(f"block-local in two processes ÷ the best of the peers, {link or 'no link'}: {figure(lead, 'lead')}")


def figure(row: dict, key: str) -> str:
    return f"{row[key]:.2f} ({row[f'{key}_min']:.2f}–{row[f'{key}_max']:.2f})"


def leads(rows: list[dict]) -> dict[str | None, dict]:
    """By link, from none to the slowest, the row of the peer over which block-local leads least."""
    found: dict[str | None, dict] = {}
    for row in rows:
        if "lead" in row and (row["link"] not in found or row["lead"] < found[row["link"]]["lead"]):
            found[row["link"]] = row
    return dict(sorted(found.items(), key=lambda item: -bits_per_second(item[0]) if item[0] else float("-inf")))


def shortfalls(rows: list[dict]) -> list[str]:
    """A line for every figure below its limit."""
    found = []
    ours = [row for row in rows if row["method"] == PARALLEL and row["link"] is None]
    if not ours:
        return [f"{PARALLEL}: not measured"]
    if ours[0]["speed"] < SPEED_UP:
        found.append(f"{PARALLEL}: {ours[0]['speed']:.3f} × one process, below {SPEED_UP}")
    found += [
        f"{PARALLEL}: {row['lead']:.3f} × {row['method']}, not above 1"
        for row in rows
        if row["link"] is None and "lead" in row and row["lead"] <= 1
    ]
    for row in rows:
        if row["link"] is None and abs(row.get("prediction_error", 0)) > PREDICTION:
            found.append(
                f"{row['method']}: simulated {row['predicted']:.2f} × one process, measured {row['speed']:.2f}: off by "
                f"{row['prediction_error']:+.0%}, more than {PREDICTION:.0%}"
            )
    slower = list(leads(rows).items())
    for (_, before), (link, lead) in pairwise(slower):
        if lead["lead"] <= before["lead"]:
            found.append(
                f"{PARALLEL}, {link}: leads {lead['lead']:.3f} ×, not above {before['lead']:.3f} on a faster link"
            )
    return found


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="exit 1 and name each row that falls short")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--link", action="append", default=[], help="also over a link of this rate, such as 100mbit")
    parser.add_argument("--only", nargs="+", default=[], help="methods whose name holds one of these (and baselines)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--model", default="resnet56", help="one of the library's; decoder: 12 layers, 4,096 tokens")
    parser.add_argument("--width", type=int, default=32, help="channels of the first stage; of the decoder, its width")
    parser.add_argument("--batch", type=int, default=64, help="images per step; a multiple of 8")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="alternating rounds")
    parser.add_argument("--steps", type=int, default=6, help="steps per method and round, at least 2")
    arguments = parser.parse_args()
    if arguments.batch % 8 or arguments.batch < 8:
        parser.error(f"--batch must be a multiple of 8 (micro-batches), not {arguments.batch}")
    if arguments.steps < 2:
        parser.error(f"--steps must be at least 2 (the first fills the pipeline), not {arguments.steps}")
    if arguments.check and arguments.rounds < ROUNDS:
        parser.error(f"--check needs medians of at least {ROUNDS} rounds, not {arguments.rounds}")
    for link in arguments.link:
        try:
            bits_per_second(link)
        except ValueError as reason:
            parser.error(f"--link: {reason}")
    return arguments


def main() -> int:
    arguments = parse()
    if arguments.device == "cuda" and torch.cuda.device_count() < 2:
        print("one GPU only: no rows for methods of two processes", file=sys.stderr)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as Ctrl-C: processes and namespaces are taken down
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
