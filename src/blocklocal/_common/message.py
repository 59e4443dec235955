"""What crosses the cut between two blocks: one tensor, or several."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor
from torch.utils import _pytree as pytree


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


def hidden_of(message: Forward) -> Tensor:
    """The tensor that local losses read."""
    return message.hidden if isinstance(message, Message) else message


def mask_of(message: Forward) -> Tensor | None:
    """Which positions are real, [B, T]; None where all are."""
    return message.mask if isinstance(message, Message) else None


def map_message(do: Callable[[Tensor], Tensor], message: Forward) -> Forward:
    """The message with `do` applied to every tensor in it."""
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
