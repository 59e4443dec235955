"""A dry run of a kind of batch before the first step with it.

Blocks update one after the other, so that what fails in a later block would find the earlier ones changed.
"""

from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from blocklocal._common.errors import InputError
from blocklocal._common.seeds import seeded
from blocklocal.block.learner import BlockLearner
from blocklocal.block.loss import HiddenLoss
from blocklocal.block.normalisation import one_value
from blocklocal.network.edge import explained
from blocklocal.rules.base import target_messages
from blocklocal.splitting.agreement import undisturbed

Kind = tuple[torch.Size, torch.dtype, bool]
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class Trials:
    """The kinds of batches that learners have run on: shape and type of a sample, and whether there is one alone."""

    def __init__(self):
        self._outputs: dict[Kind, torch.Size] = {}

    def output(self, learners: Sequence[BlockLearner], x: Tensor, rows: Tensor, *, training: bool = True) -> torch.Size:
        """The shape of the network's output for one sample. A kind of batch that is new is tried first, on two samples.

        Nothing stays of it: a buffer that counts its calls has the value from before.

        Raises:
            InputError: a block, readout or decoder cannot run on it, in `training` or only to predict.
        """
        kind = (x.shape[1:], x.dtype, len(x) == 1 and training)
        if kind not in self._outputs:
            self._outputs[kind] = _try(learners, x[:2], rows)
        return self._outputs[kind]


@torch.no_grad()
def _try(learners: Sequence[BlockLearner], x: Tensor, rows: Tensor) -> torch.Size:
    with ExitStack() as kept:
        kept.enter_context(seeded("trial"))
        kept.enter_context(_norms_watched(learners, alone=len(x) == 1))
        for learner in learners:
            kept.enter_context(undisturbed(learner))
        try:
            with explained([learner.block for learner in learners], x):
                return _run(learners, x, rows)
        except (RuntimeError, ValueError, IndexError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"the network cannot run on a batch of shape {list(x.shape)} and {x.dtype}: {error}"
            ) from error


def _run(learners: Sequence[BlockLearner], a: Tensor, rows: Tensor) -> torch.Size:
    for learner, message in zip(learners, target_messages(learners, rows), strict=True):
        a = learner(a)
        learner.scores(a, message)
        if isinstance(learner.local, HiddenLoss) and learner.local.decoders:
            features = learner.local.features(learner.local.read(a))
            for decoder in learner.local.decoders.values():
                decoder(features)
    return a.shape[1:]


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
