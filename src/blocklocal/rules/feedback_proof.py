"""A proof, on one batch, that no error comes back through a layer's own weights.

After a forward pass all weights become NaN, and the error is sent back. It reads the feedback weights alone, so what
arrives is finite; where the backward pass reads a weight after all (a scripted module, an autograd function of a user's
own, layers that activation checkpointing runs again), NaN arrives.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

import torch
import torch.nn as nn
from torch import Tensor

from blocklocal._common.errors import InputError
from blocklocal._common.message import Given, hidden_of, lead, map_message, tensors_of
from blocklocal._common.modes import kept_modes
from blocklocal._common.seeds import seeded
from blocklocal.rules.feedback_mode import FeedbackWeights


def check_errors(block: nn.Module, example: Given, context: Callable[[nn.Module], FeedbackWeights]) -> None:
    """Raise InputError, with a layer's name, where an error would come back through its own weights."""
    if lead(example).is_meta:  # there are no errors without values
        return
    example = map_message(_two_samples, example)
    looked_up = [m.weight for m in block.modules() if isinstance(m, nn.Embedding) and m.weight.requires_grad]
    ends = [t for t in tensors_of(example) if t.requires_grad] or looked_up
    with _as_in_training(block), torch.enable_grad(), seeded("feedback check"):
        mode = context(block)
        with mode:
            output = hidden_of(block(example))
        weights = {name: p for name, p in block.named_parameters() if id(p) in mode.feedback and _wide(p)}
        if not ends or not output.requires_grad or _arrives(output, ends, list(weights.values())):
            return
        name = next((n for n, p in weights.items() if not _arrives(output, ends, [p])), "several layers")
    raise InputError(
        f"feedback-alignment cannot replace the transposed weights of '{name}': the backward pass reads them by "
        "itself, as a scripted module, an autograd function of one's own and activation checkpointing do. Leave that "
        "out, or choose another rule."
    )


def _two_samples(t: Tensor) -> Tensor:
    """BatchNorm needs two; numbers get a gradient."""
    two = torch.cat([t, t])[:2]
    return two.detach().clone().requires_grad_() if two.is_floating_point() else two


def _wide(p: Tensor) -> bool:
    """Whether it is more than a vector of gains, which an error may be multiplied by."""
    return sum(size > 1 for size in p.shape) > 1


def _arrives(output: Tensor, ends: Sequence[Tensor], weights: Sequence[nn.Parameter]) -> bool:
    """Whether a finite error arrives at the ends while these weights are NaN."""
    with _lost(weights):
        try:
            found = torch.autograd.grad(output.sum(), ends, retain_graph=True, allow_unused=True)
        except RuntimeError as error:  # of a backward pass of the user's own
            raise InputError(
                "feedback-alignment cannot replace transposed weights where the backward pass cannot be checked "
                f"({error}). Leave activation checkpointing out, or choose another rule."
            ) from error
    return all(bool(g.isfinite().all()) for g in found if g is not None)


@contextmanager
def _lost(weights: Sequence[nn.Parameter]) -> Generator[None, None, None]:
    """The weights are NaN, without autograd's knowledge."""
    kept = [p.detach().clone() for p in weights]
    try:
        for p in weights:
            p.data.fill_(torch.nan)
        yield
    finally:
        for p, value in zip(weights, kept, strict=True):
            p.data.copy_(value)


@contextmanager
def _as_in_training(block: nn.Module) -> Generator[None, None, None]:
    """In training mode; modes and buffers (BatchNorm's statistics) are put back."""
    buffers = {b: b.clone() for b in block.buffers()}
    try:
        with kept_modes([block]):
            block.train()
            yield
    finally:
        with torch.no_grad():
            for b, value in buffers.items():
                b.copy_(value)
