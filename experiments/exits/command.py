"""The command: train, measure, print and keep the rows, and check them."""

import argparse
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import experiments.exits
from benchmarks.common import Row, finish
from experiments.exits.cases import CASES, WAYS
from experiments.exits.measure import WANTED, Settings, measured
from experiments.on_cpu import begun, flags_of_runs

NEAR = {"0.5": 0.3, "0.25": 3.0}  # points below the full network's, by budget
ECE, ENSEMBLE_AURC, COVERAGE = 0.01, 1.05, 0.01


def show(row: Row) -> None:
    rights = " ".join("–" if each is None else f"{each:.2f}" for each in row["right"])
    together = "" if row["together"] is None else f"  together {row['together']:.2f}"
    ece = " ".join("–" if each is None else f"{each:.4f}" for each in row["ece"])
    exits = "  ".join(
        f"{budget}: {each['right']:.2f} at {each['cost']:.2f}, time {each['time']:.2f}"
        for budget, each in row["exits"].items()
    )
    foreign = "  ".join(f"{name} {value:.3f}" for name, value in row["foreign"].items())
    areas = f"AURC {row['aurc']:.5f}" + (
        "" if row["aurc_together"] is None else f", together {row['aurc_together']:.5f}"
    )
    said = [
        f"{row['case']} {row['way']:16} seed {row['seed']} ({row['part']})",
        f"right {rights}{together}",
        f"ECE {ece}",
        areas,
        f"exits {exits or '–'}",
        f"foreign {foreign}",
        f"{row['seconds']:.0f} s",
    ]
    print("  ".join(said), flush=True)


def mean(rows: Sequence[Row], way: str, read: Callable[[Row], Any]) -> float | None:
    """Over the seeds; None where there is none."""
    found = [value for row in rows if row["way"] == way and (value := read(row)) is not None]
    return statistics.fmean(found) if found else None


def shortfalls(rows: Sequence[Row]) -> list[str]:
    """A line for every figure that is not reached, by case."""
    return [line for case in CASES for line in _of_case(case, [row for row in rows if row["case"] == case])]


def _of_case(case: str, rows: Sequence[Row]) -> list[str]:
    found = []
    full = mean(rows, "block-local", lambda row: row["together"])
    for budget, below in NEAR.items():
        here = mean(rows, "block-local", lambda row, b=budget: row["exits"].get(b, {}).get("right"))
        if full is not None and (here is None or here < full - below):
            reached = "no exit" if here is None else f"{here:.2f} %"
            found.append(f"{case}: at {budget} of the FLOPs {reached}, more than {below:g} points below {full:.2f} %")
        peer = mean(rows, "deep-supervision", lambda row, b=budget: row["exits"].get(b, {}).get("right"))
        if peer is not None and here is not None and here <= peer:
            found.append(f"{case}: at {budget} of the FLOPs {here:.2f} %, deep supervision {peer:.2f} %")
    worst = mean(rows, "block-local", lambda row: max(each for each in row["ece"] if each is not None))
    if worst is not None and worst > ECE:
        found.append(f"{case}: a calibration error of {worst:.4f} at a block, more than {ECE:g}")
    for score in ("threshold", "adaptive"):
        inside = mean(rows, "block-local", lambda row, s=score: row["coverage"][s])
        if inside is not None and abs(inside - WANTED) > COVERAGE:
            found.append(f"{case}: {score} sets hold {inside:.3f} of the true classes, not {WANTED:g}")
    area = mean(rows, "block-local", lambda row: row["aurc_together"])
    for way, most in (("ensemble", ENSEMBLE_AURC), ("backprop", 1.0)):
        best = mean(rows, way, lambda row: row["aurc"])
        if area is not None and best is not None and area > most * best:
            found.append(f"{case}: AURC of all blocks {area:.5f}, more than {most:g} of {way}'s {best:.5f}")
    return found


def flags() -> argparse.ArgumentParser:
    found = flags_of_runs(experiments.exits.__doc__, ("full", "trial", "small"), CASES)
    found.set_defaults(case=["fashion", "cifar"])
    found.add_argument("--only", choices=WAYS, nargs="+", default=tuple(WAYS), help="some of the ways")
    return found


def main() -> int:
    arguments, rows = begun(flags()), list[Row]()
    with tempfile.TemporaryDirectory() as place:
        runs = arguments.runs or Path(place)
        for name in arguments.case:
            for seed in range(arguments.seeds):
                for way in arguments.only:
                    case = CASES[name]
                    given = Settings(arguments.size, arguments.data_folder, runs / name, arguments.search)
                    row = measured(case, way, seed, given)
                    rows.append({"case": name, **row})
                    show(rows[-1])
                    finish(rows, argparse.Namespace(json=arguments.json, check=False), [])
    return finish(rows, arguments, [] if arguments.search else shortfalls(rows))
