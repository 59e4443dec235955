"""A dry run of a kind of batch before the first step with it: blocks update one after the other, so that what fails in
a later block would find the earlier ones changed.
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
    """The kinds of batches that units have run on: the shape and type of a sample, and whether there is one alone."""

    def __init__(self):
        self._outputs: dict[Kind, torch.Size] = {}

    def output(self, units: Sequence[BlockLearner], x: Tensor, rows: Tensor, *, training: bool = True) -> torch.Size:
        """The shape of the network's output for one sample. A kind of batch that is new is tried first, on two samples.

        Nothing stays of it: a buffer that counts its calls has the value from before. Raises InputError where a block,
        readout or decoder cannot run on it, in `training` or only to predict.
        """
        kind = (x.shape[1:], x.dtype, len(x) == 1 and training)
        if kind not in self._outputs:
            self._outputs[kind] = _try(units, x[:2], rows)
        return self._outputs[kind]


@torch.no_grad()
def _try(units: Sequence[BlockLearner], x: Tensor, rows: Tensor) -> torch.Size:
    with ExitStack() as kept:
        kept.enter_context(seeded("trial"))
        kept.enter_context(_norms_watched(units, alone=len(x) == 1))
        for unit in units:
            kept.enter_context(undisturbed(unit))
        try:
            with explained([unit.block for unit in units], x):
                return _run(units, x, rows)
        except (RuntimeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"the network cannot run on a batch of shape {list(x.shape)} and {x.dtype}: {error}"
            ) from error


def _run(units: Sequence[BlockLearner], a: Tensor, rows: Tensor) -> torch.Size:
    for unit, message in zip(units, target_messages(units, rows), strict=True):
        a = unit(a)
        unit.scores(a, message)
        if isinstance(unit.local, HiddenLoss) and unit.local.decoders:
            features = unit.local.features(unit.local.read(a))
            for decoder in unit.local.decoders.values():
                decoder(features)
    return a.shape[1:]


@contextmanager
def _norms_watched(units: Sequence[BlockLearner], *, alone: bool) -> Generator[None, None, None]:
    """Refuse a batch of one that leaves a BatchNorm in training one value per channel."""

    def watch(where: str):
        def look(norm: nn.Module, given: tuple[Tensor, ...]) -> None:
            if given and given[0].numel() == given[0].shape[1]:
                raise InputError(one_value(where))

        return look

    hooks = [norm.register_forward_pre_hook(watch(where)) for where, norm in _norms(units) if alone and norm.training]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _norms(units: Sequence[BlockLearner]) -> Iterator[tuple[str, nn.Module]]:
    for unit in units:
        for name, module in unit.named_modules():
            if isinstance(module, BATCH_NORMS):
                yield f"block {unit.index + 1}: {name.removeprefix('block.')} ({type(module).__name__})", module
