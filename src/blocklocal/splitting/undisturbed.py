"""A module that runs and is afterwards as it was."""

import copy
from collections.abc import Generator
from contextlib import contextmanager

from torch import nn

from blocklocal._common.modes import kept_buffers

_GROWING = (dict, list, set)  # what a forward may add to


@contextmanager
def undisturbed(module: nn.Module) -> Generator[None]:
    """Put back modes, buffers and plain attributes of all parts afterwards, in evaluation mode in between."""
    parts = list(module.modules())
    attributes = [dict(vars(part)) for part in parts]
    held = [(value, copy.copy(value)) for kept in attributes for value in kept.values() if isinstance(value, _GROWING)]
    try:
        with kept_buffers([module]):
            for part in parts:
                part.training = False
            yield
    finally:
        for part, kept in zip(parts, attributes, strict=True):
            vars(part).clear()
            vars(part).update(kept)
        for value, before in held:
            value.clear()
            value.extend(before) if isinstance(value, list) else value.update(before)
