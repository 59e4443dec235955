"""One way, trained, calibrated on the validation part and measured on the test part."""

import math
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from benchmarks.common import Row
from blocklocal._common.errors import InputError
from blocklocal.block.targets import pooled
from blocklocal.data import Images, ImageSet
from blocklocal.exits import FittedExits, evaluate_early, fit_exits
from blocklocal.exits.temperature import fit_temperature
from blocklocal.network.exits import EarlyPrediction
from blocklocal.network.network import BlockLocal
from blocklocal.network.prediction import Temperatures
from blocklocal.runs.config import Config
from blocklocal.runs.looking import load_network
from blocklocal.runs.saved import read_summary
from blocklocal.runs.sets import AnyBatches, evaluation_batches, load_data
from blocklocal.uncertainty.conformal import Score, conformal_sets
from blocklocal.uncertainty.foreign import foreign_scores
from blocklocal.uncertainty.measures import auroc, calibration_error
from blocklocal.uncertainty.selective import aurc
from experiments.exits.cases import ENSEMBLE, WAYS, Case
from experiments.trained_run import train_run

BUDGETS = (0.25, 0.5, 0.75, 1.0)
FOREIGN = 2_000  # images
WANTED, SPLITS = 0.9, 200  # coverage of conformal sets, and random halves in which it is measured
ROUNDS, TIMED = 3, 4  # rounds and batches in which an early pass and a whole one are timed
Logits = list[Tensor | None]


@dataclass(frozen=True)
class Trained:
    """A trained network, its validation and test batches, and the training's seconds.

    Attributes:
        unused: as many images of the training set as there are test images, in no part of the run; None where too few
            are left. A test set may be drawn a little differently, and these are not.
    """

    network: BlockLocal
    validation: AnyBatches
    test: AnyBatches
    unused: AnyBatches | None
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
    train_run(case.settings(size, seed, root, **WAYS[way]), folder)
    config, facts, network = load_network(folder, None, "cpu")
    assert isinstance(network, BlockLocal)
    data = load_data(config, folder)
    held, test = data.validation, data.test
    if given.search:
        assert isinstance(held, Images)
        order = torch.arange(len(held))
        held, test = held.subset(order[::2]), held.subset(order[1::2])
    parts = [evaluation_batches(config, part, facts, network.device) for part in (held, test)]
    foreign, rest = case.foreign_images(facts, root, FOREIGN), unused(config, len(data.test))
    more = None if rest is None else evaluation_batches(config, rest, facts, network.device)
    return Trained(network, parts[0], parts[1], more, foreign, read_summary(folder)["seconds"])


def unused(config: Config, count: int) -> Images | None:
    """So many images of the training set that are in no part of a run; None where fewer are left."""
    size = config.data.train_size
    if size is None:
        return None
    try:
        own, larger = load_data(config), load_data(config.edit(train_size=size + count))
    except InputError:  # there are not so many
        return None
    assert isinstance(own, ImageSet)
    assert isinstance(larger, ImageSet)
    same = torch.equal(own.train.read(), larger.train.read()[:size])
    if not same or not torch.equal(own.validation.read(), larger.validation.read()):
        raise AssertionError("a larger training part holds other images: the unused ones are not known.")
    return larger.train.subset(slice(size, None))


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
    fitted = fit_exits(first.network, first.validation) if count == 1 else None
    calibrated = _temperatures(members, fitted)
    temperatures = calibrated.blocks
    known, y = _logits(members, [each.test for each in members])
    foreign, _ = _logits(members, [[(each.foreign, torch.zeros(len(each.foreign)))] for each in members])
    scores = [foreign_scores(each, temperatures) for each in (known, foreign)]
    several = sum(each is not None for each in known) > 1
    together = pooled(known, calibrated.weights) / calibrated.combined if several else None
    return {
        **rows,
        "seconds": sum(each.seconds for each in members),
        "right": [None if each is None else _right(each, y) for each in known],
        "together": None if together is None else _right(together, y),
        "together_equal": _right(pooled(known), y) if several else None,
        "weights": list(calibrated.weights),
        "together_cost": fitted.costs.leaving([True] * len(known))[-1] if fitted is not None and several else None,
        "ece_before": [None if each is None else _ece(each, y) for each in known],
        "ece": [None if each is None else _ece(each, y) for each in _divided(known, temperatures)],
        "ece_unused": _ece_unused(members, temperatures),
        "ece_together": None if together is None else _ece(together, y),
        "aurc": _aurc(_divided(known, temperatures)[-1], y),
        "aurc_together": None if together is None else _aurc(together, y),
        "exits": {} if fitted is None else _early(first, fitted),
        "foreign": {
            name: auroc(inside, scores[1][name])
            for name, inside in scores[0].items()
            if count == 1 or name == "largest"  # a mean of probabilities has no energy
        },
        "coverage": {score: _coverage(_divided(known, temperatures)[-1], y, score) for score in get_args(Score)},
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def _temperatures(members: Sequence[Trained], fitted: FittedExits | None) -> Temperatures:
    """Of every block and of all together; of an ensemble that of its mean."""
    if fitted is not None:
        return fitted.temperatures
    known, y = _logits(members, [each.validation for each in members])
    assert known[-1] is not None
    return Temperatures((fit_temperature(members[0].network.targets, known[-1], y),))


def _logits(members: Sequence[Trained], batches: Sequence[Iterable[Any]]) -> tuple[Logits, Tensor]:
    """Of one network those of its blocks; of several that of the mean of their outputs' probabilities."""
    found = [logits_of(each.network, part) for each, part in zip(members, batches, strict=True)]
    if len(found) == 1:
        return found[0]
    outputs = [logits[-1].log_softmax(1) for logits, _ in found if logits[-1] is not None]
    return [torch.stack(outputs).logsumexp(0) - math.log(len(outputs))], found[0][1]


def _divided(known: Logits, temperatures: Sequence[float]) -> Logits:
    return [None if each is None else each / t for each, t in zip(known, temperatures, strict=True)]


def _right(logits: Tensor, y: Tensor) -> float:
    return 100 * (logits.argmax(1) == y).double().mean().item()


def _ece(logits: Tensor, y: Tensor) -> float:
    sure, label = logits.softmax(1).max(1)
    return calibration_error(sure, label == y)


def _ece_unused(members: Sequence[Trained], temperatures: Sequence[float]) -> list[float | None]:
    parts = [each.unused for each in members if each.unused is not None]
    if len(parts) < len(members):
        return []
    known, y = _logits(members, parts)
    return [None if each is None else _ece(each, y) for each in _divided(known, temperatures)]


def _aurc(logits: Tensor | None, y: Tensor) -> float:
    assert logits is not None
    sure, label = logits.softmax(1).max(1)
    return aurc(sure, label == y)


def _coverage(logits: Tensor | None, y: Tensor, score: str) -> float:
    """The share of the true classes in conformal sets of a coverage of `WANTED`, in the mean over random halves."""
    assert logits is not None
    p, found = logits.softmax(1).double(), []
    for seed in range(SPLITS):
        order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
        held, new = order.chunk(2)
        sets = conformal_sets(p[held], y[held], WANTED, score)(p[new])
        found.append(sets.gather(1, y[new].unsqueeze(1)).double().mean().item())
    return statistics.fmean(found)


def _early(member: Trained, fitted: FittedExits) -> dict[str, Row]:
    """By budget: the accuracy on the test part, what it cost in FLOPs and in seconds beside the whole network."""
    found: dict[str, Row] = {}
    for budget in BUDGETS:
        try:
            choice = fitted.for_budget(budget)
        except InputError:
            continue
        early, by = evaluate_early(member.network, member.test, choice), choice.setting.by
        ratios = [_seconds(member, choice.exits) / _seconds(member, None) for _ in range(ROUNDS)]
        found[f"{budget:g}"] = {
            "right": early.right,
            "cost": early.cost / 100,
            "time": statistics.median(ratios),
            "by": by,
        }
    return found


def _seconds(member: Trained, exits: Any) -> float:
    """Of a pass over the first test batches; without exits of the output alone."""
    start = time.perf_counter()
    with torch.no_grad():
        member.network.eval()
        for x, _ in islice(member.test, TIMED):
            found = member.network(x) if exits is None else member.network.predict(x, exits)
            assert isinstance(found, Tensor | EarlyPrediction)
    return time.perf_counter() - start
