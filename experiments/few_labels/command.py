"""The command: train, measure, print and keep the rows, and check them."""

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import experiments.few_labels
from benchmarks.common import Row, finish
from blocklocal.data import ImageSet
from blocklocal.data.answers import UNKNOWN
from blocklocal.network.network import BlockLocal
from blocklocal.runs.looking import load_network
from blocklocal.runs.saved import read_summary
from blocklocal.runs.sets import evaluation_batches, load_data
from blocklocal.training.evaluation import evaluate
from experiments.exits.cases import CASES, Case
from experiments.on_cpu import begun, flags_of_runs
from experiments.trained_run import train_run

THIRD = 1 / 3  # of the distance from `labelled` to `all`
STRONG = "crop:2,flip,randaugment:10,cutout:6"  # of the second view; the first is augmented as the case says


@dataclass(frozen=True)
class Way:
    """How it is trained.

    Attributes:
        settings: changes of the case's configuration.
        all_labels: whether every image keeps its label.
        alone: whether images without a label are left out.
    """

    settings: dict[str, Any]
    all_labels: bool = False
    alone: bool = False


OFTEN = {"repeat_labelled": 0.5, "second_view": STRONG}
CONSISTENCY = {"consistency": 1.0, **OFTEN}
WAYS = {
    "all": Way({}, all_labels=True),
    "labelled": Way({}, alone=True),
    "labelled-strong": Way({"augment": STRONG}, alone=True),
    "backprop": Way({"rule": "backprop"}, alone=True),
    "frozen": Way({"rule": "frozen"}, alone=True),
    "reconstruction": Way({"reconstruction": 0.1, "repeat_labelled": 0.5}),
    "barlow": Way({"barlow": 0.1, **OFTEN}),
    "consistency": Way(CONSISTENCY),
    "consistency-once": Way({"consistency": 1.0, "second_view": STRONG}),
    "both": Way({**CONSISTENCY, "barlow": 0.1}),
    "backprop-consistency": Way({"rule": "backprop", **CONSISTENCY}),
}
SIZES = {
    "full": {"epochs": 16, "validation": 1_000},
    "trial": {"epochs": 8, "validation": 1_000},
    "small": {"train_size": 200, "validation": 60, "test_size": 60, "epochs": 1, "width": 4},
}


def measured(case: Case, name: str, seed: int, arguments: argparse.Namespace, runs: Path) -> Row:
    """Train a run, unless it is there and finished; its accuracies."""
    way, share = WAYS[name], arguments.share
    size = SIZES[arguments.size]
    kept = {} if way.all_labels else {"labelled": share}
    config = case.settings("full", seed, arguments.data_folder, **{**size, **way.settings, **kept})
    data = load_data(config)
    assert isinstance(data, ImageSet)
    if way.alone:
        known = (data.train.labels != UNKNOWN).nonzero().squeeze(1)
        copies = max(1, round(0.1 / share))  # so that there is no epoch of a batch or two
        data = replace(data, train=data.train.subset(known.repeat(copies)))
        config = config.edit(epochs=round(config.optimisation.epochs / share / copies))
    folder = runs / f"{arguments.size}-{name}-{'all' if way.all_labels else share}-seed{seed}"
    train_run(config, folder, data)
    config, facts, network = load_network(folder, None, "cpu")
    assert isinstance(network, BlockLocal)
    part = "validation" if arguments.search else "test"
    found = evaluate(network, evaluation_batches(config, getattr(data, part), facts, network.device))
    return {
        "way": name,
        "share": 1.0 if way.all_labels else share,
        "seed": seed,
        "size": arguments.size,
        "part": part,
        "right": found.block_top1,
        "together": found.combined_top1,
        "seconds": read_summary(folder)["seconds"],
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def show(row: Row) -> None:
    rights = " ".join("–" if each is None else f"{each:.2f}" for each in row["right"])
    together = "" if row["together"] is None else f"  together {row['together']:.2f}"
    print(
        f"{row['way']:22} {row['share']:g} of the labels  seed {row['seed']} ({row['part']})  right {rights}{together}"
        f"  {row['seconds']:.0f} s",
        flush=True,
    )


def mean(rows: Sequence[Row], way: str) -> float | None:
    """Of the output's accuracy over the seeds; None where the way was not measured."""
    found = [row["right"][-1] for row in rows if row["way"] == way]
    return statistics.fmean(found) if found else None


def shortfalls(rows: Sequence[Row]) -> list[str]:
    """A line where no label-free part is worth a third of the labels that are missing."""
    full, few = mean(rows, "all"), mean(rows, "labelled")
    ways = [way for way in ("reconstruction", "barlow", "consistency", "both") if mean(rows, way) is not None]
    if full is None or few is None or not ways or full <= few:
        return []
    best, way = max(((mean(rows, way) or 0.0) - few, way) for way in ways)
    if best / (full - few) >= THIRD:
        return []
    return [
        f"{way}: {100 * best / (full - few):.0f} % of the distance from {few:.2f} to {full:.2f} %, less than a third"
    ]


def flags() -> argparse.ArgumentParser:
    found = flags_of_runs(experiments.few_labels.__doc__, SIZES, CASES)
    found.set_defaults(case=["fashion-augmented"])
    found.add_argument("--share", type=float, default=0.1, help="of the labels that are kept")
    found.add_argument("--only", choices=WAYS, nargs="+", default=tuple(WAYS), help="some of the ways")
    return found


def main() -> int:
    arguments, rows = begun(flags()), list[Row]()
    with tempfile.TemporaryDirectory() as place:
        for case in arguments.case:
            for seed in range(arguments.seeds):
                for name in arguments.only:
                    runs = (arguments.runs or Path(place)) / case
                    rows.append({"case": case, **measured(CASES[case], name, seed, arguments, runs)})
                    show(rows[-1])
                    finish(rows, argparse.Namespace(json=arguments.json, check=False), [])
    return finish(rows, arguments, [] if arguments.search else shortfalls(rows))
