"""The command: measure, print and keep the rows, check them; or try learning rates."""

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path

import experiments.networks
from benchmarks.common import Row, finish, spread
from experiments.networks.cases import CASES, RULES, Case
from experiments.networks.measure import measure, trained
from experiments.on_cpu import begun
from experiments.on_cpu import flags as flags_on_cpu

SIZES = ("full", "search", "small")
LIMIT = 2.0  # points below backprop


def show(row: Row) -> None:
    print(
        f"{row['network']:9} {row['rule']:12} seed {row['seed']}  {row['measure']} {row['test']:6.2f} %  "
        f"(validation {row['validation']:6.2f})  kept {row['bytes'] / 2**20:7.1f} MiB, {row['bytes_ratio']:.3f} × "
        f"backprop  time {spread(row)} × backprop  lr {row['lr']:g}, {row['training_seconds']:.0f} s",
        flush=True,
    )


def shortfalls(rows: Sequence[Row]) -> list[str]:
    """A line for every network whose block-local is not above the control, or too far below backprop."""
    found = []
    for name in dict.fromkeys(row["network"] for row in rows):
        best, control, local = (mean(rows, name, rule) for rule in RULES)
        if local <= control:
            found.append(f"{name}: block-local {local:.2f} is not above the control, {control:.2f}")
        if local < best - LIMIT:
            found.append(f"{name}: block-local {local:.2f} is more than {LIMIT:g} points below backprop, {best:.2f}")
    return found


def mean(rows: Sequence[Row], network: str, rule: str) -> float:
    """Test measure over the seeds."""
    return statistics.fmean(row["test"] for row in rows if (row["network"], row["rule"]) == (network, rule))


def choose(case: Case, arguments: argparse.Namespace) -> None:
    """Print what every rule reaches on the validation part with each of its learning rates; the test part is unread."""
    for rule in RULES:
        for lr in case.ways[rule].tried:
            row = trained(case, rule, arguments, 0, lr)
            figures = f"{case.measure} {row['validation']:.2f} %, {row['training_seconds']:.0f} s"
            print(f"{case.name:9} {rule:12} lr {lr:<8g} validation {figures}", flush=True)


def others(arguments: argparse.Namespace, measured_now: Sequence[str]) -> list[Row]:
    """The rows in the file of `--json` that are of other networks or of another size."""
    if not arguments.json or not arguments.json.exists():
        return []
    before = json.loads(arguments.json.read_text())
    return [row for row in before if row["size"] != arguments.size or row["network"] not in measured_now]


def flags() -> argparse.ArgumentParser:
    found = flags_on_cpu(experiments.networks.__doc__, SIZES)
    found.add_argument("--only", choices=CASES, help="one of the networks")
    found.add_argument("--data-folder", type=Path, help="folder of fashion_mnist and cifar10 (default: the hub's)")
    found.add_argument("--choose", action="store_true", help="only try the learning rates, on the validation part")
    return found


def main() -> int:
    arguments = begun(flags())
    cases = [CASES[arguments.only]] if arguments.only else list(CASES.values())
    if arguments.choose:
        for case in cases:
            choose(case, arguments)
        return 0
    rows: list[Row] = []
    kept_rows = others(arguments, [case.name for case in cases])
    for case in cases:
        for seed in range(arguments.seeds):
            found = measure(case, arguments, seed)
            for row in found:
                show(row)
            rows += found
            finish([*kept_rows, *rows], argparse.Namespace(json=arguments.json, check=False), [])
    return finish([*kept_rows, *rows], arguments, shortfalls(rows))
