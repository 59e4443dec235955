"""The command: measure, print and keep the rows, check them; or search on validation text."""

import argparse
import statistics
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import experiments.decoders
from benchmarks.common import Row, finish, spread
from experiments.decoders.measure import costs, load, trained
from experiments.decoders.ways import SIZES, WAYS
from experiments.on_cpu import begun, flags_of_ways

TABLE = ("backprop", "frozen-2", "shared-2", "frozen-4", "greedy-4", "private-4", "shared-4")
ABOVE = {2: 3.0, 4: 8.0}  # percent of perplexity above backprop, by blocks
CLOSED = 80.0  # percent of the distance between control and backprop, at 4 blocks


def show(row: Row) -> None:
    part = "test" if "test" in row else "validation"
    found = row[part]
    bits = " ".join("–" if each is None else f"{each:.3f}" for each in found["bits_per_byte"])
    agreed = "" if found["agreement"] is None else f"  agreement {found['agreement']:.1f} %"
    cost = "" if "flops_ratio" not in row else (
        f"  FLOPs × {row['flops_ratio']:.2f}  kept × {row['bytes_ratio']:.2f}  time × {spread(row)}"
    )  # fmt: skip
    changed = "".join(f" {name}={value}" for name, value in row["changes"].items())
    print(
        f"{row['way']:12}{changed} seed {row['seed']}  {part} perplexity {found['perplexity'][-1]:.2f}  "
        f"bits per byte {bits}{agreed}{cost}  {row['training_seconds']:.0f} s",
        flush=True,
    )


def search(names: Sequence[str], arguments: argparse.Namespace) -> None:
    """Print what every way reaches on validation text with each of the settings that it tries."""
    data = load(arguments)
    for name in names:
        for changes in ({}, *WAYS[name].tried):
            show(trained(name, data, arguments, 0, **changes))


def perplexity(rows: Sequence[Row], way: str) -> float | None:
    """Of the output, in the mean over the seeds; None where the way was not measured."""
    found = [row["test"]["perplexity"][-1] for row in rows if row["way"] == way]
    return statistics.fmean(found) if found else None


def shortfalls(rows: Sequence[Row]) -> list[str]:
    """A line for every figure that is not reached."""
    found, base = [], perplexity(rows, "backprop")
    for blocks, limit in ABOVE.items():
        local, control = perplexity(rows, f"shared-{blocks}"), perplexity(rows, f"frozen-{blocks}")
        if local is None or base is None:
            continue
        above = 100 * (local / base - 1)
        if above > limit:
            found.append(f"shared-{blocks}: perplexity {above:.1f} % above backprop's, more than {limit:g} %")
        if control is not None and blocks == 4 and 100 * (control - local) / (control - base) < CLOSED:
            found.append(f"shared-4: less than {CLOSED:g} % of the distance from the control to backprop is closed")
    for row in rows:
        bits = [each for each in row["test"]["bits_per_byte"] if each is not None]
        if row["way"].startswith("shared") and any(a <= b for a, b in pairwise(bits)):
            found.append(f"{row['way']}, seed {row['seed']}: a block does not improve on the one before")
    return found


def flags() -> argparse.ArgumentParser:
    found = flags_of_ways(experiments.decoders.__doc__, SIZES, WAYS, TABLE)
    found.add_argument("--text", type=Path, required=True, help="a folder of text, or a file")
    return found


def main() -> int:
    arguments = begun(flags())
    if arguments.search:
        search(arguments.only, arguments)
        return 0
    data, rows = load(arguments), list[Row]()
    cost = costs(list(arguments.only), data, arguments)
    for seed in range(arguments.seeds):
        for name in arguments.only:
            rows.append(trained(name, data, arguments, seed) | cost[name])
            show(rows[-1])
            finish(rows, argparse.Namespace(json=arguments.json, check=False), [])
    return finish(rows, arguments, shortfalls(rows))
