"""How much every class counts, as the setting `class_weights` says it: "balanced", or one number per class."""

import torch
from torch import Tensor

from blocklocal._common.errors import InputError, shown
from blocklocal.block.classes import Classes, balanced

BALANCED = "balanced"


def check_class_weights(text: str) -> None:
    """Raise InputError for what is neither "balanced" nor numbers by commas; empty: no weights."""
    if text not in ("", BALANCED):
        _numbers(text)


def class_weights_of(text: str, labels: Tensor, classes: int) -> tuple[float, ...] | None:
    """The weights of the classes, None without any.

    Args:
        labels: class numbers of the training part.

    Raises:
        InputError: there are not as many numbers as classes, or they mean nothing.
    """
    if not text:
        return None
    if text == BALANCED:
        return tuple(balanced(labels, classes))
    weights = _numbers(text)
    Classes(classes, weights)  # says itself what is wrong
    return weights


def _numbers(text: str) -> tuple[float, ...]:
    try:
        weights = tuple(float(part) for part in text.split(","))
    except ValueError:
        weights = (-1.0,)
    if not all(weight >= 0 and torch.isfinite(torch.tensor(weight)) for weight in weights):
        raise InputError(
            "class_weights must be balanced, or one number per class by commas, 0 or more (1,2.5,1), not "
            f"{shown(text)}."
        )
    return weights
