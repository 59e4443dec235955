"""Whether the blocks of a network, applied in order, are the network: tried on two samples.

Values and gradients are compared in evaluation mode; of blocks that were cut by running, values in training mode too.
Weights, statistics, modes, attributes and random state stay as they were.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from blocklocal._common.errors import InputError, first_line
from blocklocal._common.group_norm import guarded
from blocklocal._common.message import Input, call, lead, map_message, tensors_of
from blocklocal._common.seeds import generator, seeded
from blocklocal.splitting.calls import described, one_tensor
from blocklocal.splitting.contexts import ordinary
from blocklocal.splitting.running_block import RunningBlock
from blocklocal.splitting.undisturbed import undisturbed

SAMPLES = 2
_CLOSE = 1e-3  # of the largest value: two ways to compute the same thing differ by less, two things by more


def check_agreement(model: nn.Module, blocks: Sequence[nn.Module], example: Input) -> list[nn.Parameter]:
    """Raise InputError where `model` and its blocks in order differ on the first samples of `example`, [B, …].

    On the meta device, where tensors have no values, only shapes are compared, and which parameters get a gradient.

    Returns:
        The parameters that require a gradient and get none, as far as that can be seen.
    """
    if not all(t.numel() for t in tensors_of(example)) or kind_of_library(model):
        return []
    x, kind = map_message(_samples, example), type(model).__name__
    wanted, wanted_gradients = _outcome(f"{kind} cannot run on the example", model, model, x)
    found, gradients = _outcome(f"the blocks of {kind} cannot run on what it can", nn.Sequential(*blocks), model, x)
    if wanted.shape != found.shape:
        raise _differ(kind, f"the network gives {list(wanted.shape)}, its blocks in order give {list(found.shape)}")
    if not _same(wanted, found):
        raise _differ(kind, "the network and its blocks in order give other values for the same input")
    if any(isinstance(block, RunningBlock) for block in blocks):
        _check_training(model, blocks, x)
    if wanted_gradients is None or gradients is None:
        return []
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    for (name, _), one, other in zip(trained, wanted_gradients, gradients, strict=True):
        if (one is None) != (other is None):
            raise _differ(kind, f"only {'the network' if other is None else 'the blocks'} would train {name!r}")
        if one is not None and other is not None and not _same(one, other):
            raise _differ(kind, f"the network and its blocks give {name!r} other gradients")
    return [p for (_, p), gradient in zip(trained, gradients, strict=True) if gradient is None]


def _check_training(model: nn.Module, blocks: Sequence[nn.Module], x: Input) -> None:
    """Compare values in training mode with the same random numbers, then without dropout where those are others."""
    kind = type(model).__name__
    for dropout in (nullcontext, _NoDropout):
        with torch.no_grad(), dropout():
            wanted, found = _trained(model, x), _trained(nn.Sequential(*blocks), x, kind)
        if wanted.shape == found.shape and _same(wanted, found):
            return
    raise _differ(kind, "in training mode the network and its blocks in order give other values for the same input")


def _trained(module: nn.Module, x: Input, kind: str = "") -> Tensor:
    with undisturbed(module), seeded("agreement"):
        for part in module.modules():
            part.training = True
        given = map_message(Tensor.clone, x)
        return one_tensor(module(given) if kind else call(module, given), kind or type(module).__name__)


class _NoDropout(TorchFunctionMode):
    """No dropout drops anything."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout):
            return args[0]
        kwargs = dict(kwargs or {})
        if "dropout_p" in kwargs:  # of attention
            kwargs["dropout_p"] = 0.0
        return func(*args, **kwargs)


def kind_of_library(model: nn.Module) -> bool:
    """Whether it is a model of this library, whose blocks are known to equal it."""
    return type(model).__module__.startswith("blocklocal.models.")


def _samples(t: Tensor) -> Tensor:
    """The first samples; numbers drawn at random in the place of floating-point ones that are all the same."""
    x = t.detach()[:SAMPLES] if t.dim() else t.detach()
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
            f"{trouble} of {described(x)}: {type(reason).__name__}: {first_line(reason)}. Give "
            "inputs that the model takes, or build it for these."
        ) from reason
    output = one_tensor(output, type(model).__name__)
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
