"""What the experiments that are sized for a CPU have in common: their flags, and how they begin."""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from benchmarks.common import parser


def flags(about: str | None, sizes: Iterable[str]) -> argparse.ArgumentParser:
    """Those of all, as of the benchmarks, with --size and --seeds."""
    found = parser(about, rounds=5, steps=2)
    found.set_defaults(device="cpu")
    found.add_argument(
        "--size", choices=list(sizes), default="full", help="smaller: for less time; small: does it run?"
    )
    found.add_argument("--seeds", type=int, default=1, help="how many")
    return found


def flags_of_ways(
    about: str | None, sizes: Iterable[str], ways: Iterable[str], table: Sequence[str]
) -> argparse.ArgumentParser:
    """The same, of an experiment that compares ways to train.

    Args:
        table: the ways that are measured where none are named.
    """
    found = flags(about, sizes)
    found.add_argument("--only", nargs="+", choices=list(ways), default=table, help="some of the ways")
    found.add_argument("--search", action="store_true", help="only compare settings, on validation data")
    found.add_argument("--updates", type=int, help="train for so many updates instead of the size's own")
    return found


def flags_of_runs(about: str | None, sizes: Iterable[str], cases: Iterable[str]) -> argparse.ArgumentParser:
    """Those of an experiment whose ways are trained as runs on image sets, `--case`, `--data-folder`, `--runs`."""
    found = flags(about, sizes)
    found.add_argument("--case", choices=list(cases), nargs="+", help="which sets and networks")
    found.add_argument("--search", action="store_true", help="on the validation part, not on the test part")
    found.add_argument("--data-folder", type=Path, help="folder of mnist, fashion_mnist, cifar10 (default: the hub's)")
    found.add_argument(
        "--runs", type=Path, help="folder of the runs; the same command again goes on (default: none is kept)"
    )
    return found


def begun(command: argparse.ArgumentParser) -> argparse.Namespace:
    """The flags as they were given, and the threads set."""
    arguments = command.parse_args()
    if arguments.device != "cpu":
        command.error(f"--device {arguments.device}: these networks are sized for a CPU, and measured on one.")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    return arguments
