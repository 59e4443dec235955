"""What crosses the cut between two blocks, and what the first block reads: one tensor, or several."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import signature
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from blocklocal._common.errors import InputError


@dataclass(frozen=True)
class Message:
    """A forward message of several tensors. A block reads one and gives one; one tensor alone needs no `Message`.

    Attributes:
        hidden: what the block's distribution, its readout and its local loss are made of, [B, …].
        beside: by name, what later blocks need as well: an attention mask, rotary positions, what a skip connection
            carries.
        mask: [B, T], true where a position is real and not padding; None where all are. Local losses leave the others
            out.
    """

    hidden: Tensor
    beside: Mapping[str, Tensor] = field(default_factory=dict)
    mask: Tensor | None = None


Forward = Tensor | Message
Input = Tensor | Sequence[Tensor] | Mapping[str, Tensor]
"""What a network is given as x: one tensor, several, or several by name. Its first block gets it as it is."""

Given = Forward | Input
AnyGiven = TypeVar("AnyGiven", bound=Given)


def as_input(x: object) -> Input | None:
    """A network's input: a tensor, a tuple of tensors, or a dictionary of them; None where it is something else."""
    if isinstance(x, Tensor):
        return x
    if isinstance(x, Mapping):
        return dict(x) if x and all(isinstance(t, Tensor) for t in x.values()) else None
    if isinstance(x, tuple | list):
        return tuple(x) if x and all(isinstance(t, Tensor) for t in x) else None
    return None


def named_tensors(given: Given, name: str = "x") -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a message or an input, with the name that a message to the user gives it."""
    if isinstance(given, Message):
        yield f"{name}.hidden", given.hidden
        for key, t in given.beside.items():
            yield f"{name}.beside[{key!r}]", t
        if given.mask is not None:
            yield f"{name}.mask", given.mask
    elif isinstance(given, Mapping):
        yield from ((f"{name}[{key!r}]", t) for key, t in given.items())
    elif isinstance(given, tuple | list):
        yield from ((f"{name}[{k}]", t) for k, t in enumerate(given))
    else:
        assert isinstance(given, Tensor)
        yield name, given


def tensors_of(given: Given) -> list[Tensor]:
    """The tensors of a message or an input."""
    return [given] if isinstance(given, Tensor) else [t for _, t in named_tensors(given)]


def lead(given: Given) -> Tensor:
    """The tensor that stands for the whole: the hidden one of a message, the first of an input. [B, …]."""
    return given if isinstance(given, Tensor) else next(iter(tensors_of(given)))


def call(model: Callable[..., Any], x: Given) -> Any:
    """What a model makes of an input: `model(*x)` of several tensors, `model(**x)` of tensors by name.

    Where its forward does not take them apart (an nn.Sequential never does), `model(x)`.
    """
    if isinstance(x, Tensor | Message):
        return model(x)
    args, named = ((), x) if isinstance(x, Mapping) else (x, {})
    try:
        signature(getattr(model, "forward", model)).bind(*args, **named)
    except (TypeError, ValueError):
        return model(x)
    return model(*args, **named)


def mask_after(given: Given, made: Forward) -> Tensor | None:
    """Which positions of what a block has made are real, [B, T]; None where all are.

    A block that gives one tensor leaves the positions of a sequence [B, T, D] as they were in what it was given.
    """
    if isinstance(made, Message):
        return made.mask
    mask = given.mask if isinstance(given, Message) else None
    return mask if mask is not None and made.dim() == 3 and made.shape[:2] == mask.shape else None


def check_message(message: Message, name: str) -> None:
    """Whether the tensors of a message fit together.

    Args:
        message: what a block gave.
        name: of the block.

    Raises:
        InputError: they do not; it says which.
    """
    hidden, mask = message.hidden, message.mask
    if not isinstance(hidden, Tensor):
        raise InputError(f"{name} gives a Message whose hidden is {type(hidden).__name__}: it must be a tensor.")
    for what, t in named_tensors(message, "its message"):
        if not isinstance(t, Tensor):
            raise InputError(f"{name}: {what} is {type(t).__name__}; a Message holds tensors alone.")
        if t.device != hidden.device:
            raise InputError(
                f"{name}: {what} is on {t.device}, its hidden tensor on {hidden.device}: put all of a message there."
            )
    if mask is None:
        return
    if mask.dtype != torch.bool:
        raise InputError(f"{name}: the mask of its message is {mask.dtype}: give mask.bool(), true where it is real.")
    if hidden.dim() != 3 or mask.shape != hidden.shape[:2]:
        raise InputError(
            f"{name}: a mask of shape {list(mask.shape)} does not fit a hidden tensor of shape {list(hidden.shape)}. "
            "It must be [B, T] beside a sequence [B, T, D]; leave it out where positions are pooled."
        )


def hidden_of(message: Forward) -> Tensor:
    """The tensor that local losses read."""
    return message.hidden if isinstance(message, Message) else message


def mask_of(message: Forward) -> Tensor | None:
    """Which positions are real, [B, T]; None where all are."""
    return message.mask if isinstance(message, Message) else None


def map_message(do: Callable[[Tensor], Tensor], message: AnyGiven) -> AnyGiven:
    """The message, or the input, with `do` applied to every tensor in it."""
    if isinstance(message, Tensor):
        return do(message)  # type: ignore[return-value]
    return pytree.tree_map_only(Tensor, do, message)


def _flatten(message: Message) -> tuple[list[object], tuple[str, ...]]:
    return [message.hidden, message.mask, *message.beside.values()], tuple(message.beside)


def _unflatten(values: list[object], names: tuple[str, ...]) -> Message:
    hidden, mask, *beside = values
    return Message(hidden, dict(zip(names, beside, strict=True)), mask)  # type: ignore[arg-type]


pytree.register_pytree_node(
    Message,
    _flatten,
    lambda values, names: _unflatten(list(values), names),
    serialized_type_name="blocklocal.Message",
)
