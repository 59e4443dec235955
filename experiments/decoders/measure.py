"""One decoder trained in one way: what it reaches, block by block, and what it costs beside backprop."""

import argparse
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

import blocklocal as bl
from benchmarks.common import Row, alternate, conditions, kept, time_figures
from blocklocal.data.text_set import TextPart, TextSet, load_text_set
from blocklocal.data.windows import WindowBatches
from experiments.decoders.ways import SIZES, WAYS, Size


def size_of(arguments: argparse.Namespace) -> Size:
    """The size that is asked for, with its own number of updates or another one."""
    size = SIZES[arguments.size]
    return size if arguments.updates is None else replace(size, steps=arguments.updates)


def load(arguments: argparse.Namespace) -> TextSet:
    """The text, as much of it as the size asks for."""
    size = size_of(arguments)
    return load_text_set(
        arguments.text,
        vocabulary=size.vocabulary,
        length=size.length,
        train_size=size.steps * size.batch,
        validation=size.held,
        test_size=size.held,
    )


def trained(name: str, data: TextSet, arguments: argparse.Namespace, seed: int, **changes: Any) -> Row:
    """Train once, and measure on the validation part, and, where no `changes` are tried, on the test part.

    Args:
        changes: settings in the place of the way's own.
    """
    size, way = size_of(arguments), WAYS[name]
    network = way.build(size, data.bytes_per_token, seed, **changes)
    train = WindowBatches(data.train, batch_size=size.batch, shuffle=True, seed=seed)
    start = time.perf_counter()
    bl.Trainer(network, epochs=1, schedule="warmup-cosine").fit(train)
    seconds = time.perf_counter() - start
    row: Row = {"way": name, "rule": way.rule, "blocks": way.blocks, "seed": seed, "size": arguments.size}
    row |= {"settings": dict(way.learning), "changes": changes, "lr": changes.get("lr", way.lr)}
    row |= {"training_seconds": seconds, "tokens": size.steps * size.batch * size.length}
    parts = {"validation": data.validation} if changes or arguments.search else {
        "validation": data.validation, "test": data.test
    }  # fmt: skip
    for part, text in parts.items():
        row[part] = measured(network, text)
    return row


def measured(network: bl.BlockLocal, text: TextPart) -> dict[str, Any]:
    """Perplexity and bits per byte of every block and of all together, and the last hidden block's agreement."""
    batches = WindowBatches(text, batch_size=16)
    found = bl.evaluate(network, batches)
    return {
        "perplexity": found.measured["perplexity"],
        "bits_per_byte": found.measured["bits_per_byte"],
        "together": found.combined,
        "agreement": agreement(network, batches),
    }


@torch.no_grad()
def agreement(network: bl.BlockLocal, batches: WindowBatches) -> float | None:
    """The share of positions, in percent, at which the last hidden block and the output say the same token."""
    same, count = 0, 0
    network.eval()
    for x, _ in batches.epoch(0):
        *hidden, output = network.block_logits(x)
        known = [each for each in hidden if each is not None]
        if output is None or not known:
            return None
        same += int((known[-1].argmax(-1) == output.argmax(-1)).sum())
        count += x.numel()
    return 100.0 * same / count


def costs(names: list[str], data: TextSet, arguments: argparse.Namespace) -> dict[str, Row]:
    """FLOPs, kept bytes and time of a step of every way, each beside backprop's in the same run."""
    size = SIZES[arguments.size]
    chosen = ["backprop", *(name for name in names if name != "backprop")]
    networks = {name: WAYS[name].build(size, data.bytes_per_token, 0) for name in chosen}
    x, y = next(iter(WindowBatches(data.train, batch_size=size.batch)))
    return costs_of(networks, "backprop", x, y, arguments)


def costs_of(
    networks: Mapping[str, bl.BlockLocal], base: str, x: torch.Tensor, y: torch.Tensor, arguments: argparse.Namespace
) -> dict[str, Row]:
    """FLOPs, kept bytes and time of a step of every network, each beside those of the network `base`."""
    memory = {name: kept(network, x, y) for name, network in networks.items()}  # also warms up
    work = {name: flops(network, x, y) for name, network in networks.items()}
    times = alternate(networks, x, y, rounds=arguments.rounds, steps=arguments.steps)
    return {
        name: {
            "bytes": memory[name],
            "bytes_ratio": memory[name] / memory[base],
            "flops": work[name],
            "flops_ratio": work[name] / work[base],
            **time_figures(times[name], times[base]),
            **conditions(arguments),
        }
        for name in networks
    }


def flops(network: bl.BlockLocal, x: torch.Tensor, y: torch.Tensor) -> int:
    """Of one step: products of matrices, forward and backward."""
    with FlopCounterMode(display=False) as counter:
        network.step(x, y)
    return counter.get_total_flops()
