"""`blocklocal reproduce`: hands its arguments to `experiments/`, a package of the repository."""

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import blocklocal
from blocklocal._common.errors import InputError


def reproduce(arguments: list[str]) -> None:
    """Re-make table1, figure2 or figure3 of the paper, or measure accuracy beside backprop's."""
    experiments().reproduce(arguments)


def experiments() -> ModuleType:
    """The module of the experiments' command.

    Raises:
        InputError: it is not there.
    """
    root = Path(blocklocal.__file__).parents[2]
    if not (root / "experiments" / "command.py").is_file():
        raise InputError(
            "the paper's experiments are in the repository of blocklocal, not in the installed package: clone it, "
            "install it with pip install --editable . and give the command again."
        )
    sys.path.insert(0, str(root))
    return import_module("experiments.command")
