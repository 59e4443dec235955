"""What a network is asked for, from the arguments of `BlockLocal`; each is checked once, here."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from blocklocal._common.errors import InputError, shown
from blocklocal.block.targets import Classes, Labels, Targets, Tokens, Values
from blocklocal.network.settings import Learning

ClassWeights = Sequence[float] | Tensor | None


def asked_for(
    classes: int | None,
    labels: int | None,
    values: "int | Values | None",
    class_weights: ClassWeights = None,
    read: Callable[[Any], Tensor] | None = None,
    tokens: "int | Tokens | None" = None,
) -> Targets:
    """The targets that `BlockLocal` is told of.

    Raises:
        InputError: none or several kinds are named, or something does not go with the kind.
    """
    if sum(kind is not None for kind in (classes, labels, values, tokens)) != 1:
        raise InputError(
            "say what is asked for: either classes= (one of several), or labels= (several yes/no answers), values= "
            "(numbers), or tokens= (the next one of a text)."
        )
    if read is not None and not callable(read):
        raise InputError(f"targets= must be a function of y that gives the targets, not {shown(read)}.")
    if classes is not None:
        return Classes(classes, _weights(class_weights), read=read)
    if class_weights is not None:
        raise InputError("class_weights= goes with classes=; weigh samples with batches (x, y, weight).")
    if labels is not None:
        return Labels(labels, read=read)
    if tokens is not None:
        found = tokens if isinstance(tokens, Tokens) else Tokens(tokens)
        return found if read is None else replace(found, read=read)
    if isinstance(values, Values):
        return values if read is None else values.reading(read)
    assert values is not None
    return Values(values, read=read)


def _weights(given: ClassWeights) -> tuple[float, ...] | None:
    if given is None:
        return None
    if isinstance(given, str):
        raise InputError(
            f"class_weights={given!r}: the weights are fitted on the training part, so give "
            "class_weights=blocklocal.balanced(y_train, classes)."
        )
    try:
        return tuple(float(weight) for weight in given)
    except (TypeError, ValueError) as error:
        raise InputError(f"class_weights must be numbers, one per class, not {shown(given)}.") from error


def check_goes_with(targets: Targets, learning: Learning) -> None:
    """Raise InputError for settings that mean nothing for these targets."""
    if isinstance(targets, Values) and learning.label_smoothing:
        raise InputError("label_smoothing spreads a target over classes, and values have none: leave it out.")
    if learning.consistency and (targets.large or not isinstance(targets, Classes)):
        raise InputError("consistency learns classes that a block is sure of, and these have none: leave it out.")
