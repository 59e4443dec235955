"""Checkpoints: one folder per saved step, complete or not there at all.

    RUN/checkpoints/step-00000400/
        block-0.safetensors …   weights and buffers of every learner (block, twin, readout, decoders)
        block-0.moments …       what its optimiser keeps of every weight (the safetensors format again)
        block-0.optimizer …     the rest of its optimiser, and its schedule (tensors and builtins only)
        state.json              architecture, position in training, tallies
        rng.pt                  torch's global random state, for a user's own code (the library names its streams)
        checksums.json          size and XXH128 of each of these files; what differs is never loaded

A checkpoint is written under a temporary name beside the older one and renamed, so that a kill at any moment leaves a
loadable run; the two newest are kept. A second one of the same step is `step-00000400.2` until the first is gone.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from blocklocal._common.errors import InputError
from blocklocal.block.learner import BlockLearner
from blocklocal.block.shards import shard_like, shard_state_like
from blocklocal.network.neighbours import Neighbours
from blocklocal.schemas.checkpoint import TensorKind
from blocklocal.training.advice import OF_RUN, Advice
from blocklocal.training.checkpoint_draft import Draft, Saved, describe
from blocklocal.training.checkpoint_files import Files
from blocklocal.training.checkpoint_folder import clear_leftovers, list_checkpoints
from blocklocal.training.learner_state import unpack
from blocklocal.training.optimizer_check import check_optimizer

OPTIMIZER = {"optimizer", "schedule"}


def save_checkpoint(folder: Path, network: Neighbours, state: dict) -> Path:
    """Write the network and `state` (JSON-able; it must hold "step") below `folder`.

    Returns:
        The checkpoint's path.

    Raises:
        OSError: the disk is full; what was there before is untouched then.
    """
    clear_leftovers(folder)
    draft = Draft.open(folder, state["step"])
    try:
        network.each(draft.write)
        return draft.complete(state, [describe(learner) for learner in network.learners])
    except BaseException:
        shutil.rmtree(draft.partial, ignore_errors=True)
        raise


def load_checkpoint(path: Path, network: Neighbours, *, optimizers: bool = True, advice: Advice = OF_RUN) -> dict:
    """Load weights and, unless `optimizers` is False, optimisers and torch's random state.

    Where the network is a process's share of the blocks, only theirs are read. Nothing is loaded before all files are
    checked.

    Args:
        advice: what messages advise.

    Returns:
        The saved state.

    Raises:
        InputError: the checkpoint is damaged (the message names an older one where there is one), of another
            architecture, or of other optimisers.
    """
    files = open_files(path, advice)
    state, checked = files.state()
    _check_same(files, checked.units, network)
    random = files.random_state() if optimizers else None
    network.take(Checkpoint(files, checked.step, optimizers))
    if random is not None:
        torch.set_rng_state(random)
    return {name: value for name, value in state.items() if name != "units"}


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint, as a network takes it (`network.saved.SavedNetwork`).

    Attributes:
        files: its files.
        step: steps that the network had taken.
        optimizers: whether optimisers are read too.
    """

    files: Files
    step: int
    optimizers: bool

    @property
    def path(self) -> Path:
        return self.files.path

    def read(self, learner: BlockLearner) -> Saved:
        return read_learner(self.files, learner, optimizer=self.optimizers)

    def check(self, learner: BlockLearner, saved: Saved) -> None:
        if not self.optimizers:
            return
        try:
            check_optimizer(saved.optimizer, learner)
        except ValueError as error:
            if self.files.advice.configure is None:
                raise self.files.damaged(f"block-{learner.index}.optimizer", error) from error
            raise InputError(
                f"the optimisers or schedules in {self.path} are not those of this network (block {learner.index + 1}: "
                f"{error}). {self.files.advice.configure}"
            ) from error

    def give(self, learner: BlockLearner, saved: Saved) -> None:
        now = learner.state_dict()
        learner.load_state_dict(
            unpack({name: shard_like(tensor, now.get(name)) for name, tensor in saved.weights.items()})
        )
        if self.optimizers and learner.optimizer is not None and learner.schedule is not None:
            learner.optimizer.load_state_dict(shard_state_like(saved.optimizer["optimizer"], learner.optimizer))
            learner.schedule.load_state_dict(saved.optimizer["schedule"])


def open_files(path: Path, advice: Advice = OF_RUN) -> Files:
    """The files of a checkpoint; what is damaged is complained of with the name of an older checkpoint."""
    return Files.open(path, [other.name for other in list_checkpoints(path.parent) if other.name < path.name], advice)


def read_learner(files: Files, shape: BlockLearner, *, optimizer: bool = True) -> Saved:
    """What is saved of one block.

    Args:
        files: of a checkpoint.
        shape: a learner of the same architecture, perhaps without content.
        optimizer: whether its optimiser is read too; else it is as one that begins anew.

    Raises:
        InputError: its files are damaged, or of another architecture.
    """
    weights = files.weights(shape.index, describe(shape), _parameters(shape))
    anew = dict.fromkeys(OPTIMIZER)
    return Saved(shape.index, weights, files.optimizer(shape.index) if optimizer else anew)


def _parameters(learner: BlockLearner) -> set[str]:
    return {name for name, _ in learner.named_parameters(remove_duplicate=False)}


def _check_same(files: Files, saved: Sequence[dict[str, list[int] | TensorKind]], network: Neighbours) -> None:
    path, advice = files.path, files.advice.architecture
    if len(saved) != network.count:
        raise InputError(f"{path} holds {len(saved)} blocks, the network has {network.count}. {advice}")
    for learner in network.learners:
        old, new = saved[learner.index], describe(learner)
        for name in sorted({*old, *new}):
            there, here = _said(old.get(name)), _said(new.get(name), dtype=isinstance(old.get(name), TensorKind))
            if there != here:
                raise InputError(
                    f"{path} is of another architecture: block {learner.index + 1}, {name!r} is {there} there and "
                    f"{here} in the network. {advice}"
                )


def _said(kind: Any, *, dtype: bool = True) -> str:
    """`[3, 4] float32`; the shape alone where no type was written down, or is not wanted."""
    if kind is None:
        return "absent"
    if isinstance(kind, TensorKind):
        kind = {"shape": kind.shape, "dtype": kind.dtype}
    if isinstance(kind, list):
        return str(kind)
    return f"{kind['shape']} {kind['dtype']}" if dtype else str(kind["shape"])
