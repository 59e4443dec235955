"""Weights that are not trained."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from blocklocal._common.errors import InputError


def freeze(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Take the weights whose names match one of the patterns out of training; give their names.

    Args:
        patterns: as a shell has them for files: "*embeddings*" for every weight with this word in its name.

    Raises:
        InputError: a pattern matches nothing, or nothing would be left to train.
    """
    named, frozen = dict(model.named_parameters()), list[str]()
    for pattern in patterns:
        found = [name for name in named if fnmatchcase(name, pattern)]
        if not found:
            some = ", ".join(list(named)[:5])
            raise InputError(
                f"the pattern {pattern!r} to freeze matches no weight of {type(model).__name__}, such as {some}."
            )
        frozen += found
    for name in frozen:
        named[name].requires_grad_(False)
    if frozen and not any(p.requires_grad for p in named.values()):
        raise InputError(f"freezing {', '.join(map(repr, patterns))} leaves no weight to train.")
    return list(dict.fromkeys(frozen))
