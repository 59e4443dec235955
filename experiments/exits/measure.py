"""One way, trained, calibrated on the validation part and measured on the test part."""

import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.common import Row
from blocklocal._common.errors import InputError
from blocklocal.data import Images
from blocklocal.exits import FittedExits, evaluate_early, fit_exits
from blocklocal.exits.temperature import fit_temperature
from blocklocal.network.exits import EarlyPrediction
from blocklocal.network.network import BlockLocal
from blocklocal.runs.looking import load_network
from blocklocal.runs.run import start_run
from blocklocal.runs.saved import read_summary
from blocklocal.runs.sets import AnyBatches, evaluation_batches, load_data
from blocklocal.uncertainty.foreign import foreign_scores
from blocklocal.uncertainty.measures import auroc, calibration_error
from blocklocal.uncertainty.selective import aurc
from experiments.exits.cases import ENSEMBLE, WAYS, Case

BUDGETS = (0.25, 0.5, 0.75, 1.0)
FOREIGN = 2_000  # images
Logits = list[Tensor | None]


@dataclass(frozen=True)
class Trained:
    """A trained network, its validation and test batches, and the training's seconds."""

    network: BlockLocal
    validation: AnyBatches
    test: AnyBatches
    foreign: Tensor
    seconds: float


@dataclass(frozen=True)
class Settings:
    """What all rows have in common.

    Attributes:
        size: of the case (`cases.SMALLER`).
        root: the folder of the sets; None for the hub's.
        runs: the folder of the runs.
        search: fit on one half of the validation part and measure on the other, and leave the test part alone.
    """

    size: str
    root: Path | None
    runs: Path
    search: bool = False


def trained(case: Case, way: str, seed: int, given: Settings) -> Trained:
    """Train a run, unless it is there and finished."""
    size, root, runs = given.size, given.root, given.runs
    folder = runs / f"{size}-{way}-seed{seed}"
    if not (folder / "summary.json").is_file():
        shutil.rmtree(folder, ignore_errors=True)  # what was stopped begins again
        start_run(case.settings(size, seed, root, **WAYS[way]), folder, quiet=True)
    config, facts, network = load_network(folder, None, "cpu")
    assert isinstance(network, BlockLocal)
    data = load_data(config, folder)
    held, test = data.validation, data.test
    if given.search:
        assert isinstance(held, Images)
        order = torch.arange(len(held))
        held, test = held.subset(order[::2]), held.subset(order[1::2])
    parts = [evaluation_batches(config, part, facts, network.device) for part in (held, test)]
    foreign = case.foreign_images(facts, root, FOREIGN)
    return Trained(network, parts[0], parts[1], foreign, read_summary(folder)["seconds"])


@torch.no_grad()
def logits_of(network: BlockLocal, batches: Iterable[Any]) -> tuple[Logits, Tensor]:
    """The logits [N, C] of every block, None where it does not predict, and the classes [N]."""
    network.eval()
    found, classes = [], []
    for x, y in batches:
        found.append(network.block_logits(x))
        classes.append(y)
    columns = [
        None if any(each is None for each in column) else torch.cat(column) for column in zip(*found, strict=True)
    ]
    return columns, torch.cat(classes)


def measured(case: Case, way: str, seed: int, given: Settings) -> Row:
    """A row of the table."""
    count = ENSEMBLE if way == "ensemble" else 1
    rule, seeds = ("backprop", range(ENSEMBLE * seed, ENSEMBLE * (seed + 1))) if count > 1 else (way, [seed])
    members = [trained(case, rule, each, given) for each in seeds]
    part = "validation" if given.search else "test"
    first, rows = members[0], {"way": way, "seed": seed, "size": given.size, "part": part, "cost": float(count)}
    fitted = _fitted(first) if count == 1 else None
    known, y = _mean_logits(members, [each.test for each in members])
    foreign = _mean_logits(members, [[(each.foreign, torch.zeros(len(each.foreign)))] for each in members])[0]
    temperatures = _temperatures(members, fitted)
    return {
        **rows,
        "seconds": sum(each.seconds for each in members),
        "right": [None if each is None else _right(each, y) for each in known],
        "together": _together(known, y),
        "ece_before": [None if each is None else _ece(each, y, 1.0) for each in known],
        "ece": [None if each is None else _ece(each, y, t) for each, t in zip(known, temperatures, strict=True)],
        "aurc": _aurc(known[-1], y, temperatures[-1]),
        "aurc_together": _aurc(_mean(known), y, 1.0),
        "exits": {} if fitted is None else _early(first, fitted),
        "foreign": {
            name: auroc(inside, outside)
            for (name, inside), outside in zip(
                foreign_scores(known).items(), foreign_scores(foreign).values(), strict=True
            )
        },
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def _fitted(member: Trained) -> FittedExits | None:
    """None where no block but the last predicts."""
    try:
        return fit_exits(member.network, member.validation)
    except InputError:
        return None


def _temperatures(members: Sequence[Trained], fitted: FittedExits | None) -> list[float]:
    """Of every block; of an ensemble that of its mean logits, of one network without exits that of its output."""
    if fitted is not None:
        return [1.0 if each is None else each.temperature for each in fitted.own]
    known, y = _mean_logits(members, [each.validation for each in members])
    assert known[-1] is not None
    return [1.0] * (len(known) - 1) + [fit_temperature(members[0].network.targets, known[-1], y)]


def _mean_logits(members: Sequence[Trained], batches: Sequence[Iterable[Any]]) -> tuple[Logits, Tensor]:
    """Of one network those of its blocks; of several the mean of their outputs alone."""
    found = [logits_of(each.network, part) for each, part in zip(members, batches, strict=True)]
    if len(found) == 1:
        return found[0]
    outputs = [logits[-1].log_softmax(1) for logits, _ in found if logits[-1] is not None]
    return [torch.stack(outputs).mean(0)], found[0][1]


def _right(logits: Tensor, y: Tensor) -> float:
    return 100 * (logits.argmax(1) == y).double().mean().item()


def _mean(known: Logits) -> Tensor | None:
    there = [each for each in known if each is not None]
    return torch.stack(there).mean(0) if len(there) > 1 else None


def _together(known: Logits, y: Tensor) -> float | None:
    mean = _mean(known)
    return None if mean is None else _right(mean, y)


def _ece(logits: Tensor, y: Tensor, temperature: float) -> float:
    sure, label = (logits / temperature).softmax(1).max(1)
    return calibration_error(sure, label == y)


def _aurc(logits: Tensor | None, y: Tensor, temperature: float) -> float | None:
    if logits is None:
        return None
    sure, label = (logits / temperature).softmax(1).max(1)
    return aurc(sure, label == y)


def _early(member: Trained, fitted: FittedExits) -> dict[str, Row]:
    """By budget: the accuracy on the test part, what it cost in FLOPs and in seconds beside the whole network."""
    found: dict[str, Row] = {}
    whole = _seconds(member, None)
    for budget in BUDGETS:
        try:
            choice = fitted.for_budget(budget)
        except InputError:
            continue
        early, by = evaluate_early(member.network, member.test, choice), choice.setting.by
        ratio = _seconds(member, choice.exits) / whole
        found[f"{budget:g}"] = {"right": early.right, "cost": early.cost / 100, "time": ratio, "by": by}
    return found


def _seconds(member: Trained, exits: Any) -> float:
    """Of a pass over the test part; without exits of the output alone."""
    start = time.perf_counter()
    with torch.no_grad():
        member.network.eval()
        for x, _ in member.test:
            found = member.network(x) if exits is None else member.network.predict(x, exits)
            assert isinstance(found, Tensor | EarlyPrediction)
    return time.perf_counter() - start
