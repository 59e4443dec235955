"""How a forward message lies in memory on its way: one tensor as it is, several packed behind one another."""

import json
from dataclasses import dataclass

import torch
from torch import Tensor

from blocklocal._common.dense import flat
from blocklocal._common.errors import InputError
from blocklocal._common.message import Forward, Message, tensors_of
from blocklocal.parallel.store import decode

ALIGNED = 64  # bytes: a product may round in another way where a matrix begins elsewhere
Part = tuple[tuple[int, ...], tuple[int, ...], str]


@dataclass(frozen=True)
class MessageLayout:
    """Shape, strides and type of every tensor of a message: they arrive laid out in memory as they were made.

    Attributes:
        parts: of every tensor, in the order of `tensors_of`.
        names: of those beside the hidden one; None for a message of one tensor alone.
        masked: whether the last part is a mask.
    """

    parts: tuple[Part, ...]
    names: tuple[str, ...] | None = None
    masked: bool = False

    @classmethod
    def of(cls, a: Forward) -> "MessageLayout":
        parts = tuple((tuple(t.shape), t.stride(), str(t.dtype).removeprefix("torch.")) for t in tensors_of(a))
        return cls(parts, tuple(a.beside), a.mask is not None) if isinstance(a, Message) else cls(parts)

    def like(self, other: "MessageLayout") -> bool:
        """Whether the two differ in strides alone."""
        shapes = [[(shape, dtype) for shape, _, dtype in each.parts] for each in (self, other)]
        return shapes[0] == shapes[1] and (self.names, self.masked) == (other.names, other.masked)

    def written(self) -> str:
        return json.dumps([self.parts, self.names, self.masked])

    @classmethod
    def read(cls, text: bytes) -> "MessageLayout":
        """Raise InputError for a layout that this torch cannot hold."""
        parts, names, masked = decode(text, tuple[tuple[Part, ...], tuple[str, ...] | None, bool])
        for _, _, dtype in parts:
            if not isinstance(getattr(torch, dtype, None), torch.dtype):
                raise InputError(
                    f"the process before sends messages of the type {dtype!r}, which this torch does not have."
                )
        return cls(parts, names, masked)

    @property
    def places(self) -> list[int]:
        """Where every part begins, and where the last one ends, in bytes."""
        found = [0]
        for shape, _, dtype in self.parts:
            end = found[-1] + torch.Size(shape).numel() * getattr(torch, dtype).itemsize
            found.append(end if len(found) == len(self.parts) else -(-end // ALIGNED) * ALIGNED)
        return found

    def empty(self, device: torch.device) -> Tensor:
        """Memory for such a message: the tensor itself, or bytes for several."""
        if self.names is None:
            return empty(self.parts[0], device)
        return torch.empty(self.places[-1], dtype=torch.uint8, device=device)

    def pack(self, a: Forward) -> Tensor:
        """The bytes of a message of this layout."""
        if isinstance(a, Tensor):
            return flat(a)
        packed = torch.zeros(self.places[-1], dtype=torch.uint8, device=a.hidden.device)
        for t, place in zip(tensors_of(a), self.places, strict=False):
            packed[place : place + t.numel() * t.element_size()] = flat(t)
        return packed

    def unpack(self, packed: Tensor) -> Forward:
        """The message in memory of its own, from its bytes."""
        made = []
        for part, place in zip(self.parts, self.places, strict=False):
            t = empty(part, packed.device)
            flat(t).copy_(packed[place : place + t.numel() * t.element_size()])
            made.append(t)
        if self.names is None:
            return made[0]
        mask = made.pop() if self.masked else None
        return Message(made[0], dict(zip(self.names, made[1:], strict=True)), mask)


def empty(part: Part, device: torch.device) -> Tensor:
    shape, stride, dtype = part
    return torch.empty_strided(shape, stride, dtype=getattr(torch, dtype), device=device)
