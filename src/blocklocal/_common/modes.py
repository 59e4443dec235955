"""Modes and buffers of modules, as they were found."""

from collections.abc import Generator, Iterable
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.parameter import is_lazy


@contextmanager
def kept_modes(modules: Iterable[nn.Module], *, after_failure: bool = False) -> Generator[None, None, None]:
    """Put back the mode of every part of `modules` afterwards, each its own, also after an error.

    Parts that are made meanwhile get the mode of the module that they are in.

    Args:
        after_failure: put back after an error alone.
    """
    whole, done = {module: module.training for module in modules}, False
    before = {part: part.training for module in whole for part in module.modules()}
    try:
        yield
        done = True
    finally:
        if not (done and after_failure):
            made = {part: mode for module, mode in whole.items() for part in module.modules()}
            for part, mode in {**made, **before}.items():
                part.training = mode


@contextmanager
def kept_buffers(modules: Iterable[nn.Module]) -> Generator[None]:
    """Put the values of all buffers back afterwards: some modules count their calls in one, in evaluation too.

    A lazy layer's buffer that gets its shape meanwhile stays what it is then.
    """
    buffers = [buffer for module in modules for buffer in module.buffers() if not is_lazy(buffer)]
    before = [(buffer, buffer._version, buffer.detach().clone()) for buffer in buffers]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, version, value in before:
                if buffer._version != version:
                    buffer.copy_(value)
