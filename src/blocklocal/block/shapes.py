"""One view of every activation: positions × units, whatever the network's own layout is.

[B, D]                               flat latents     → [B, 1, D]
[B, T, D]                            sequences        → [B, T, D]
[B, C, H, W], [B, C, D, H, W]        feature maps     → [B, H·W, C], [B, D·H·W, C]

Of three axes, [B, C, L] of 1-D convolutions looks as [B, T, D] does; with more, the units may come last. So every
activation has a `Layout`, decided once, by which local losses see it in one of the forms above.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from blocklocal._common.errors import InputError, first_line
from blocklocal._common.message import Forward, Given, Message, check_message, hidden_of, named_tensors
from blocklocal._common.modes import kept_buffers, kept_modes


@dataclass(frozen=True)
class Layout:
    """Which axis of an activation holds the units.

    [B, C, L] of 1-D convolutions is seen as a line, a map [B, C, L, 1] one pixel wide.

    Attributes:
        dims: number of axes, the batch's among them.
        axis: 1, or the last.
    """

    dims: int
    axis: int

    @property
    def line(self) -> bool:
        return self.dims == 3 and self.axis == 1

    @property
    def as_it_is(self) -> bool:
        """Whether local losses see the activation as the network has it."""
        return not self.line and (self.dims <= 3 or self.axis == 1)

    def view(self, a: Tensor) -> Tensor:
        """The activation as local losses see it."""
        if self.line:
            return a.unsqueeze(-1)
        return a if self.as_it_is else a.movedim(-1, 1)

    def back(self, seen: Tensor) -> Tensor:
        """The inverse of `view`."""
        if self.line:
            return seen.squeeze(-1)
        return seen if self.as_it_is else seen.movedim(1, -1)


@dataclass(frozen=True)
class Seen:
    """How local losses see the example and every block's output.

    Attributes:
        shapes: [B, …], as the network has them.
        axes: those that hold the units, where the layers tell.
        unit_axis: the user's word, for three axes that no layer tells about: 1 or -1.

    Raises:
        InputError: `unit_axis` is something else.
    """

    shapes: Sequence[torch.Size]
    axes: Sequence[int | None]
    unit_axis: object = None

    def __post_init__(self) -> None:
        if self.unit_axis not in (None, 1, -1):
            raise InputError(
                f"the model's unit_axis is {self.unit_axis!r}; it must be 1 (channels first, [B, C, L]) or -1 (units "
                "last, [B, T, D])."
            )

    def layout(self, k: int) -> Layout:
        """The layout of block k's output, counted from 1, or with k = 0 of the example.

        The units of the example are taken to be last where nobody tells.

        Raises:
            InputError: nothing tells which of three axes holds the units.
        """
        dims, axis = len(self.shapes[k]), self.axes[k]
        if dims != 3:
            return Layout(dims, 1 if axis is None or dims < 3 else axis)
        if axis is None and self.unit_axis is None and k:
            raise InputError(
                f"block {k} gives activations of shape {list(self.shapes[k])}, and no layer tells which axis holds the "
                "units: axis 1, as in [B, C, L] of 1-D convolutions, or the last, as in [B, T, D] of sequences. Say "
                "so before you split the model: model.unit_axis = 1, or model.unit_axis = -1."
            )
        told = self.unit_axis if axis is None else axis
        return Layout(dims, 1 if told == 1 else 2)

    def shape(self, k: int) -> torch.Size:
        return self.layout(k).view(torch.empty(self.shapes[k], device="meta")).shape


def check_batch_first(shapes: Sequence[torch.Size]) -> None:
    """Raise InputError where the first axis of an activation is not that of the batch, the example's."""
    samples = next(iter(shapes[0]), 0)
    for k, shape in enumerate(shapes):
        if len(shape) < (2 if k else 1) or shape[0] != samples:
            raise InputError(
                f"block {k} gives activations of shape {list(shape)} for a batch of {samples}: the first axis must be "
                "the batch, [B, …]. Give batches rather than single samples, and recurrent and attention layers "
                "batch_first=True."
            )


def to_positions(a: Tensor) -> Tensor:
    """[B, D], [B, T, D] or maps [B, C, H, W] or [B, C, D, H, W] → [B, P, units].

    Raises:
        InputError: the output has another number of axes.
    """
    if a.dim() == 2:
        return a.unsqueeze(1)
    if a.dim() == 3:
        return a
    if a.dim() in (4, 5):
        return a.flatten(2).transpose(1, 2)
    raise InputError(
        f"a block gave an activation of shape {list(a.shape)}; expected [B, D], [B, T, D], [B, C, L], [B, C, H, W] or "
        "[B, C, D, H, W], with the batch first: cut elsewhere."
    )


def from_positions(h: Tensor, like: Tensor) -> Tensor:
    """The inverse of `to_positions` for an activation of the shape of `like`."""
    if like.dim() == 2:
        return h.squeeze(1)
    return h if like.dim() == 3 else h.transpose(1, 2).reshape(like.shape)


def units_of(shape: torch.Size) -> int:
    """Latent units per position of an activation of this shape (batch dimension included)."""
    return shape[-1] if len(shape) == 3 else shape[1]


def is_map(shape: torch.Size) -> bool:
    """Whether its positions are points of space: an image's, a line's, a volume's."""
    return len(shape) > 3


def output_shapes(modules: Sequence[nn.Module], example: Given) -> list[torch.Size]:
    """The shape (of a message: of its hidden tensor) after every module of a chain, as `outputs` runs it."""
    return [hidden_of(a).shape for a in outputs(modules, example)]


def outputs(modules: Sequence[nn.Module], example: Given) -> list[Forward]:
    """What every module of a chain gives; modes, statistics and counters stay as they are.

    Raises:
        InputError: a module does not run on what reaches it, or gives something else than a tensor or a `Message`.
    """
    found: list[Forward] = []
    a = example
    with torch.no_grad(), kept_modes(modules), kept_buffers(modules):
        for k, module in enumerate(modules):
            module.eval()
            a = _output(module, a, f"block {k + 1} of {len(modules)}")
            found.append(a)
    return found


def _output(module: nn.Module, a: Given, name: str) -> Forward:
    try:
        output = module(a)
    except Exception as reason:  # a user's own forward may fail in any way
        raise InputError(
            f"{name} cannot run on what reaches it, {_described(a)}{_of_another_type(module, a)}: "
            f"{type(reason).__name__}: {first_line(reason)}. Give inputs that the model takes, or build it for these."
        ) from reason
    if isinstance(output, Message):
        check_message(output, name)
    elif not isinstance(output, Tensor):
        raise InputError(
            f"{name} gives {type(output).__name__}: the model must give one tensor, a block one tensor or a Message."
        )
    return output


def _described(a: Given) -> str:
    if isinstance(a, Tensor):
        return f"shape {list(a.shape)} and {a.dtype}"
    return ", ".join(f"{name} of shape {list(t.shape)} and {t.dtype}" for name, t in named_tensors(a))


def _of_another_type(module: nn.Module, a: Given) -> str:
    """A sentence for a message where the weights have another precision, or lie elsewhere, than what reaches them."""
    if not isinstance(a, Tensor):
        return ""
    for p in module.parameters():
        if a.is_floating_point() and p.is_floating_point() and p.dtype != a.dtype:
            return f" (its weights are {p.dtype})"
        if p.device != a.device:
            return f" (its weights are on {p.device}, the input on {a.device})"
    return ""
