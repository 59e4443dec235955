"""One network under every rule: trained and judged, with the bytes and the time of a step."""

import argparse
import time
from collections.abc import Iterable
from typing import Any

import blocklocal as bl
from benchmarks.common import Row, alternate, conditions, kept, time_figures
from blocklocal._common.message import Input
from experiments.networks.cases import BLOCKS, RULES, Case
from experiments.networks.data import Parts


def measure(case: Case, arguments: argparse.Namespace, seed: int) -> list[Row]:
    """A row per rule, of one seed."""
    size = case.sizes[arguments.size]
    costs = cost(case, case.data(arguments.data_folder, size, case.batch, seed), arguments)
    rows = []
    for rule in RULES:
        found = trained(case, rule, arguments, seed)
        rows.append({**found, **costs[rule], "seed": seed, "words": case.words, **conditions(arguments)})
    return rows


def trained(case: Case, rule: str, arguments: argparse.Namespace, seed: int, lr: float | None = None) -> Row:
    """Train one network, and measure it on the validation part, and, where no `lr` is tried, on the test part."""
    size, way = case.sizes[arguments.size], case.ways[rule]
    parts = case.data(arguments.data_folder, size, case.batch, seed)  # anew: the batches come in the same order
    network = case.build(rule, example(parts), seed, lr)
    start = time.perf_counter()
    bl.Trainer(network, epochs=size.epochs, schedule="warmup-cosine").fit(parts.train)
    seconds = time.perf_counter() - start
    row: Row = {
        "network": case.name,
        "rule": rule,
        "blocks": 1 if rule == "backprop" else BLOCKS,
        "measure": case.measure,
    }
    row |= {"size": arguments.size, "epochs": size.epochs, "batch": case.batch}
    row |= {"updates": size.epochs * len(parts.train)}
    row |= {"lr": lr or way.lr, "settings": dict(way.learning), "training_seconds": seconds}
    for part in ("validation",) if lr else ("validation", "test"):
        row[part] = measured(case, network, getattr(parts, part))[-1]
    return row


def measured(case: Case, network: bl.BlockLocal, batches: Iterable[Any]) -> list[float | None]:
    """The measure of every block, in percent."""
    return bl.evaluate(network, batches).measured[case.measure]


def example(parts: Parts) -> Input:
    """A batch of inputs."""
    return next(iter(parts.validation))[0]


def cost(case: Case, parts: Parts, arguments: argparse.Namespace) -> dict[str, Row]:
    """Kept bytes and time of a step by rule, each beside backprop's."""
    x, y = next(iter(parts.train))
    networks = {rule: case.build(rule, x, 0) for rule in RULES}
    sizes = {rule: kept(network, x, y) for rule, network in networks.items()}  # also warms up
    times = alternate(networks, x, y, rounds=arguments.rounds, steps=arguments.steps)
    base = RULES[0]
    return {
        rule: {"bytes": sizes[rule], "bytes_ratio": sizes[rule] / sizes[base], **time_figures(times[rule], times[base])}
        for rule in RULES
    }
