"""Training and evaluation mode of modules, as they were found."""

from collections.abc import Generator, Iterable
from contextlib import contextmanager

from torch import nn


@contextmanager
def kept_modes(modules: Iterable[nn.Module]) -> Generator[None, None, None]:
    """Put back the mode of every part of `modules` afterwards, each its own."""
    modes = {part: part.training for module in modules for part in module.modules()}
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode
