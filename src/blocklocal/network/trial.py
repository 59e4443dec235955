"""A dry run of a kind of batch before the first step with it.

Blocks update one after the other, so that what fails in a later block would find the earlier ones changed.
"""

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from blocklocal._common.errors import InputError
from blocklocal._common.message import (
    Input,
    Message,
    check_message,
    hidden_of,
    lead,
    map_message,
    mask_after,
    named_tensors,
    tensors_of,
)
from blocklocal._common.seeds import seeded
from blocklocal.block.learner import BlockLearner
from blocklocal.block.loss import HiddenLoss
from blocklocal.block.normalisation import one_value
from blocklocal.network.edge import explained
from blocklocal.rules.base import target_messages
from blocklocal.splitting.undisturbed import undisturbed

Kind = tuple[Any, ...]
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class Trials:
    """The kinds of batches that learners have run on: shape and type of a sample, and whether there is one alone."""

    def __init__(self):
        self._outputs: dict[Kind, torch.Size] = {}
        self._lengths: dict[Kind, dict[int, torch.Size]] = {}

    def output(self, learners: Sequence[BlockLearner], x: Input, rows: Tensor, *, training: bool = True) -> torch.Size:
        """The shape of the network's output for one sample. A kind of batch that is new is tried first, on two samples.

        Of token sequences, [B, T] of whole numbers, one whose length lies between two that ran is taken to run too.

        Nothing stays of it: a buffer that counts its calls has the value from before.

        Raises:
            InputError: a block, readout or decoder cannot run on it, in `training` or only to predict.
        """
        alone = len(lead(x)) == 1 and training
        if isinstance(x, Tensor):
            kind: Kind = (x.shape[1:], x.dtype, alone)
        else:
            names = tuple(x) if isinstance(x, Mapping) else ()
            kind = (names, *((t.shape[1:], t.dtype) for t in tensors_of(x)), alone)
        if kind not in self._outputs:
            self._outputs[kind] = self._of_new(learners, x, rows, alone)
        return self._outputs[kind]

    def _of_new(self, learners: Sequence[BlockLearner], x: Input, rows: Tensor, alone: bool) -> torch.Size:
        length = _length(x)
        if length is None:
            return _try(learners, map_message(_two, x), rows)
        names = tuple(x) if isinstance(x, Mapping) else ()
        known = self._lengths.setdefault((names, *(t.dtype for t in tensors_of(x)), alone), {})
        found = _between(known, length)
        if found is None:
            found = known[length] = _try(learners, map_message(_two, x), rows)
        return found


def _two(t: Tensor) -> Tensor:
    return t[:2]


def _length(x: Input) -> int | None:
    """The length of token sequences, [B, T] of whole numbers each; None for any other input."""
    tensors = tensors_of(x)
    tokens = all(t.dim() == 2 and not t.is_floating_point() and t.shape == tensors[0].shape for t in tensors)
    return tensors[0].shape[1] if tokens else None


def _between(known: Mapping[int, torch.Size], length: int) -> torch.Size | None:
    """The output for a sequence longer than one that ran and shorter than another; None where it cannot be told."""
    shorter, longer = [t for t in known if t < length], [t for t in known if t > length]
    if not shorter or not longer:
        return None
    low, high = max(shorter), min(longer)
    if known[low] == known[high]:
        return known[low]
    if known[low][:1] == (low,) and known[high] == (high, *known[low][1:]):
        return torch.Size((length, *known[low][1:]))
    return None


@torch.no_grad()
def _try(learners: Sequence[BlockLearner], x: Input, rows: Tensor) -> torch.Size:
    with ExitStack() as kept:
        kept.enter_context(seeded("trial"))
        kept.enter_context(_norms_watched(learners, alone=len(lead(x)) == 1))
        for learner in learners:
            kept.enter_context(undisturbed(learner))
        try:
            with explained([learner.block for learner in learners], x):
                return _run(learners, x, rows)
        except (RuntimeError, ValueError, IndexError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"the network cannot run on a batch of {_described(x)}: {error}") from error


def _described(x: Input) -> str:
    if isinstance(x, Tensor):
        return f"shape {list(x.shape)} and {x.dtype}"
    return ", ".join(f"{name} of shape {list(t.shape)} and {t.dtype}" for name, t in named_tensors(x))


def _run(learners: Sequence[BlockLearner], x: Input, rows: Tensor) -> torch.Size:
    a: Any = x
    for learner, message in zip(learners, target_messages(learners, rows), strict=True):
        given, a = a, learner(a)
        if isinstance(a, Message):
            check_message(a, f"block {learner.index + 1}")
        learner.scores(a, message, mask_after(given, a))
        if isinstance(learner.local, HiddenLoss) and learner.local.decoders:
            features = learner.local.features(learner.local.read(hidden_of(a)))
            for decoder in learner.local.decoders.values():
                decoder(features)
    return hidden_of(a).shape[1:]


@contextmanager
def _norms_watched(learners: Sequence[BlockLearner], *, alone: bool) -> Generator[None, None, None]:
    """Refuse a batch of one that leaves a BatchNorm in training one value per channel."""

    def watch(where: str):
        def look(norm: nn.Module, given: tuple[Tensor, ...]) -> None:
            if given and given[0].numel() == given[0].shape[1]:
                raise InputError(one_value(where))

        return look

    hooks = [
        norm.register_forward_pre_hook(watch(where)) for where, norm in _norms(learners) if alone and norm.training
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _norms(learners: Sequence[BlockLearner]) -> Iterator[tuple[str, nn.Module]]:
    for learner in learners:
        for name, module in learner.named_modules():
            if isinstance(module, BATCH_NORMS):
                yield f"block {learner.index + 1}: {name.removeprefix('block.')} ({type(module).__name__})", module
