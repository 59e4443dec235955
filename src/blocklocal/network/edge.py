"""The one check of what a network is given: by `step`, `predict`, `evaluate`, a `Trainer`, and a stage of several.

What fails here has changed nothing: no weight, no statistic of a norm, no step counted.
"""

from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from blocklocal._common.errors import InputError
from blocklocal._common.message import Input, as_input, lead, map_message, named_tensors, tensors_of
from blocklocal.block.target import MISSING, Asked, Target, Targets, Wanted, values_of, with_weight

XY = tuple[Input, Asked]  # a batch: the input, and the targets in the form that losses take
Loaded = tuple[Input, Wanted] | tuple[Input, Wanted, Tensor] | Mapping[str, Any]
"""What a loader may give: (x, y), with a weight per sample, or tensors by name."""

LABELS = "labels"  # the targets in a batch by name, as Hugging Face libraries give them
_TOKENS = "input_ids"  # the tokens in such a batch
_ENOUGH = 8  # positions that are asked for their own token: more than a masked language model leaves by chance


def pair(batch: object) -> XY:
    """(x, y) of what a loader gave: of a pair, of (x, y, weight), or of tensors by name, whose `labels` are y.

    x is one tensor, a tuple of tensors, or a dictionary of them. So is y, where a function reads the targets off it.

    Raises:
        InputError: it gave anything else; the message says what.
    """
    x, y, weight = None, None, None
    if isinstance(batch, tuple | list) and len(batch) in (2, 3):
        x, y, weight = (*batch, None)[:3]
    elif isinstance(batch, Mapping) and LABELS in batch:
        x, y = {name: t for name, t in batch.items() if name != LABELS}, batch[LABELS]
    known, asked = as_input(x), _asked(y, weight)
    if known is not None and asked is not None:
        return known, asked
    advice = "Give a loader that gives such pairs, or (x, y, weight) with a float weight per sample"
    if isinstance(batch, Mapping):
        advice += ' (in a DataLoader, let collate_fn end with: return batch["image"], batch["label"], by your names)'
    elif isinstance(batch, tuple | list) and len(batch) > 2:
        advice += ", several inputs as ((x1, x2), y)"
    raise InputError(
        f"a batch must be (x, y), two tensors, input and targets, or tensors by name, {LABELS!r} among them; what came "
        f"is {_came(batch)}. {advice}."
    )


def _asked(y: object, weight: object) -> Asked | None:
    """The targets of a batch with its weights; None where they are none."""
    # Whole numbers may be the index of every sample, which some data sets give as well: they are no weights.
    if not _is_wanted(y) or not (weight is None or (isinstance(weight, Tensor) and weight.is_floating_point())):
        return None
    return with_weight(y, weight)


def _is_wanted(y: object) -> TypeGuard[Wanted]:
    """Whether it can be the targets of a batch: a tensor, or several, which `targets=` reads."""
    if isinstance(y, Tensor | Target):
        return True
    parts = list(y.values()) if isinstance(y, Mapping) else y if isinstance(y, tuple | list) else []
    return len(parts) > 0 and all(isinstance(part, Tensor) for part in parts)


def _came(batch: object) -> str:
    if isinstance(batch, Mapping):
        others = [f"{key} is {_kind(value)}" for key, value in batch.items() if not isinstance(value, Tensor)]
        said = f"a {type(batch).__name__} with the keys {', '.join(map(str, batch))}"
        return said + (f", of which {', '.join(others)}" if others else "")
    if isinstance(batch, Tensor):
        return f"one tensor of shape {list(batch.shape)}"
    if not isinstance(batch, tuple | list):
        return "None" if batch is None else f"one {type(batch).__name__}"
    kinds = ", ".join(type(each).__name__ for each in batch[:5])
    return f"a {type(batch).__name__} of {len(batch)} values" + (f" ({kinds})" if batch else "")


def _kind(value: object) -> str:
    """What stands in the place of a tensor: None, or a value of a type."""
    return "None" if value is None else f"a {type(value).__name__} and no tensor"


def check_tensor(name: str, t: object, device: torch.device) -> None:
    """Refuse what is no tensor with samples, on the network's device."""
    if isinstance(t, Mapping):
        raise InputError(f"{name} must be a tensor; what came is {_came(t)}: give one of its values.")
    if isinstance(t, Tensor) and t.layout is not torch.strided:
        raise InputError(f"{name} is a sparse tensor ({t.layout}): give {name}.to_dense().")
    if not isinstance(t, Tensor):
        raise InputError(f"{name} must be a tensor, not {type(t).__name__}: give torch.as_tensor({name}).")
    if t.dim() == 0 or len(t) == 0:
        raise InputError(f"{name} has the shape {list(t.shape)}, which holds no sample: give a batch, [B, …], of some.")
    if t.device != device:
        raise InputError(f"{name} is on {t.device}, the network on {device}: give {name}.to({str(device)!r}).")


def check_x(x: object, device: torch.device) -> Input:
    """Refuse an input that holds something else than tensors of as many samples each, on the network's device.

    Returns:
        The input: a tensor, a tuple or a dictionary.
    """
    if isinstance(x, Tensor) or not isinstance(x, tuple | list | Mapping):
        check_tensor("x", x, device)
        return x  # type: ignore[return-value]
    known = as_input(x)
    if known is None:
        raise InputError(f"x must hold tensors; what came is {_came(x)}: leave out what is no tensor.")
    named = list(named_tensors(known))
    for name, t in named:
        check_tensor(name, t, device)
        if len(t) != len(named[0][1]):
            raise InputError(
                f"{name} has {len(t)} samples and {named[0][0]} {len(named[0][1])}: the first axis of each must be the "
                "batch."
            )
    return known


def check_finite(x: Input) -> None:
    """Refuse NaN and infinite values. It waits for the device."""
    for t in tensors_of(x):
        _check_finite(t)


def _check_finite(x: Tensor) -> None:
    if not x.is_floating_point() or bool(torch.isfinite(x).all()):
        return
    bad = (~torch.isfinite(x)).flatten(1).any(1) if x.dim() > 1 else ~torch.isfinite(x)
    first, count = int(bad.nonzero()[0]), int(bad.sum())
    raise InputError(
        f"the input holds NaN or infinite values, in {count} of {len(x)} samples (the first: {first}): a step with "
        "them would ruin every weight, and a prediction means nothing. Mend or leave out these samples."
    )


def check_batch(x: Input, y: Asked, targets: Targets, device: torch.device, *, first: bool, reads: bool = True) -> XY:
    """A training batch as it may be used: targets without a graph, both out of inference mode.

    Types, shapes and devices are checked at every step. The values, finite inputs and targets in their range, too on
    the CPU; on CUDA, where every look makes the host wait for the device, at the `first` step alone. There a later NaN
    shows in the losses, which a `Trainer` checks.

    Args:
        reads: whether x is read here (by the first of several stages).

    Raises:
        InputError: the batch cannot be right.
    """
    if reads:
        x = check_x(x, device)
    asked = check_asked(y, targets, device)
    if reads and asked.shape[:1] != lead(x).shape[:1]:
        raise InputError(
            f"targets of shape {list(asked.shape)} for {len(lead(x))} samples: give one target (or row of them) per "
            "sample."
        )
    if first or not asked.is_cuda:
        targets.check(asked)
        _check_not_its_own_tokens(x, values_of(asked))
    if reads and (first or not lead(x).is_cuda):
        check_finite(x)
    return map_message(_usable, x), asked.map(_usable) if isinstance(asked, Target) else _usable(asked)


def _check_not_its_own_tokens(x: Input, y: Tensor) -> None:
    """Refuse labels that Hugging Face's collators leave to be shifted inside the model: here nothing shifts them."""
    tokens = x.get(_TOKENS) if isinstance(x, Mapping) else None
    if not isinstance(tokens, Tensor) or tokens.shape != y.shape or y.is_floating_point():
        return
    known = y != MISSING
    if int(known.sum()) >= _ENOUGH and bool((tokens[known] == y[known]).all()):
        raise InputError(
            f"every target is the token of {_TOKENS} at the same position, so the network would learn to copy. To "
            f"predict the next token, give labels that are shifted: labels[:, :-1] = labels[:, 1:].clone(), and "
            f"labels[:, -1] = {MISSING}. (Hugging Face's collators leave that to the model's own loss, not used here.)"
        )


def check_asked(y: object, targets: Targets, device: torch.device) -> Asked:
    """The targets of a batch in the form that losses take; refused where they are no tensors on the device."""
    if not isinstance(y, Tensor | Target) and _is_wanted(y):
        y = Target(y)
    if isinstance(y, Target):
        if not _is_wanted(y.y):
            check_tensor("y", y.y, device)
        for name, t in (("y", y.first), ("the weights", y.weight)):
            if t is not None:
                check_tensor(name, t, device)
    elif targets.read is None:
        check_tensor("y", y, device)
    found = targets.asked(y)
    check_tensor("y", values_of(found), device)
    return found


def _usable(t: Tensor) -> Tensor:
    """A tensor of inference mode cannot be kept for a gradient."""
    return t.clone() if t.is_inference() else t.detach()


@contextmanager
def taking_gradients() -> Generator[None, None, None]:
    """Gradients are taken and tensors are ordinary ones, also under the caller's no_grad or inference mode."""
    with torch.inference_mode(mode=False), torch.enable_grad():
        yield


# --- whether a network runs on it


@contextmanager
def explained(modules: Iterable[nn.Module], x: Input) -> Generator[None, None, None]:
    """Where running `modules` on x fails over its type or channels, say so in one sentence.

    Raises:
        InputError: it fails so.
    """
    try:
        yield
    except (InputError, RuntimeError, ValueError) as error:
        reason = misfit(modules, x)
        if reason is None:
            raise
        raise InputError(reason) from error


def misfit(modules: Iterable[nn.Module], x: Input) -> str | None:
    """What of an input does not fit the first layers that read it, as far as that can be told."""
    if not isinstance(x, Tensor):
        return None
    layers = [layer for module in modules for layer in module.modules()]
    weights = [p for layer in layers for p in layer.parameters(recurse=False) if p.is_floating_point()]
    looked_up = any(isinstance(layer, nn.Embedding | nn.EmbeddingBag) for layer in layers)
    if weights and x.dtype != weights[0].dtype and not (looked_up and not x.is_floating_point()):
        wanted = weights[0].dtype
        call = "x.float()" if wanted == torch.float32 else f"x.to({wanted})"
        return f"the input is {x.dtype} and the network's weights are {wanted}: convert it, {call}."
    first = next((layer for layer in layers if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d)), None)
    if first is None or x.dim() != first.weight.dim() or x.shape[1] == first.in_channels:
        return None
    return (
        f"the input has {x.shape[1]} channels (shape {list(x.shape)}) and the network reads {first.in_channels}: "
        f"convert the images, or build the model for {x.shape[1]} channels."
    )
