"""Whether the blocks of a network, applied in order, are the network: tried on two samples.

Values and gradients are compared, in evaluation mode. Weights, statistics, modes, attributes and random state stay as
they were.
"""

import copy
from collections.abc import Generator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from blocklocal._common.errors import InputError, first_line
from blocklocal._common.group_norm import guarded
from blocklocal._common.message import Input, Message, call, hidden_of, lead, map_message
from blocklocal._common.modes import kept_buffers
from blocklocal._common.seeds import generator, seeded
from blocklocal.splitting.contexts import ordinary

SAMPLES = 2
_CLOSE = 1e-3  # of the largest value: two ways to compute the same thing differ by less, two things by more
_GROWING = (dict, list, set)  # what a forward may add to


def check_agreement(model: nn.Module, blocks: Sequence[nn.Module], example: Input) -> list[nn.Parameter]:
    """Raise InputError where `model` and its blocks in order differ on the first samples of `example`, [B, …].

    On the meta device, where tensors have no values, only shapes are compared, and which parameters get a gradient.

    Returns:
        The parameters that require a gradient and get none, as far as that can be seen.
    """
    if not lead(example).numel() or kind_of_library(model):
        return []
    x, kind = map_message(_samples, example), type(model).__name__
    wanted, wanted_gradients = _outcome(f"{kind} cannot run on the example", model, model, x)
    found, gradients = _outcome(f"the blocks of {kind} cannot run on what it can", nn.Sequential(*blocks), model, x)
    if wanted.shape != found.shape:
        raise _differ(kind, f"the network gives {list(wanted.shape)}, its blocks in order give {list(found.shape)}")
    if not _same(wanted, found):
        raise _differ(kind, "the network and its blocks in order give other values for the same input")
    if wanted_gradients is None or gradients is None:
        return []
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    for (name, _), one, other in zip(trained, wanted_gradients, gradients, strict=True):
        if (one is None) != (other is None):
            raise _differ(kind, f"only {'the network' if other is None else 'the blocks'} would train {name!r}")
        if one is not None and other is not None and not _same(one, other):
            raise _differ(kind, f"the network and its blocks give {name!r} other gradients")
    return [p for (_, p), gradient in zip(trained, gradients, strict=True) if gradient is None]


def kind_of_library(model: nn.Module) -> bool:
    """Whether it is a model of this library, whose blocks are known to equal it."""
    return type(model).__module__.startswith("blocklocal.models.")


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


def _samples(example: Tensor) -> Tensor:
    """The first samples; numbers drawn at random in the place of floating-point ones that are all the same."""
    x = example.detach()[:SAMPLES]
    if x.is_floating_point() and x.numel() and not x.is_meta and bool((x == x.flatten()[0]).all()):
        x = torch.randn(x.shape, generator=generator("agreement")).to(x)
    return x


def _outcome(
    trouble: str, module: nn.Module, model: nn.Module, x: Input
) -> tuple[Tensor, Sequence[Tensor | None] | None]:
    """The output for x, and the gradients of the parameters of `model` that get one; None: they cannot be taken."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    try:
        with ordinary(autocast=False), undisturbed(module), guarded(lead(x).device), seeded("agreement"):
            given = map_message(Tensor.clone, x)
            output = call(module, given) if module is model else module(given)
    except Exception as reason:  # the user's own forward
        raise InputError(
            f"{trouble} of shape {list(lead(x).shape)}, {lead(x).dtype}: {type(reason).__name__}: {first_line(reason)}."
            " Give inputs that the model takes, or build it for these."
        ) from reason
    if isinstance(output, Message):
        output = hidden_of(output)
    if not isinstance(output, Tensor):
        raise InputError(f"{type(model).__name__} gives {type(output).__name__}: its output must be one tensor.")
    if not parameters or not output.requires_grad or not output.is_floating_point():
        return output, [None] * len(parameters)
    weights = torch.linspace(-1, 2, output.numel(), device=output.device).view(output.shape)
    try:
        return output.detach(), torch.autograd.grad((output.float() * weights).sum(), parameters, allow_unused=True)
    except RuntimeError:  # a layer that has no backward pass in evaluation mode (cuDNN's recurrent ones)
        return output.detach(), None


def _same(one: Tensor, other: Tensor) -> bool:
    if one.is_meta:
        return True
    scale = float(one.detach().abs().nan_to_num(0, 0, 0).max()) if one.numel() else 0.0
    return torch.allclose(other, one, rtol=_CLOSE, atol=_CLOSE * scale, equal_nan=True)


def _differ(kind: str, how: str) -> InputError:
    return InputError(
        f"{kind} cannot be cut like this: {how}. Where it has units(), those must equal its forward; else put the part "
        "that decides anything in Python, or keeps something, into a module of its own, which then runs as it is."
    )
