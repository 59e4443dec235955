"""Checkpoints: one folder per saved step, complete or not there at all.

    RUN/checkpoints/step-00000400/
        block-0.safetensors …   weights and buffers of every learner (block, twin, readout, decoders)
        block-0.optimizer …     its optimiser and schedule (tensors and builtins only)
        state.json              architecture, position in training, tallies
        rng.pt                  torch's global random state, for a user's own code (the library names its streams)
        checksums.json          size and SHA-256 of each of these files; what differs is never loaded

A checkpoint is written under a temporary name beside the older one and renamed, so that a kill at any moment leaves a
loadable run; the two newest are kept. A second one of the same step is `step-00000400.2` until the first is gone.
"""

import io
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from blocklocal._common.errors import InputError
from blocklocal.block.learner import BlockLearner
from blocklocal.block.shards import gather_full_state, shard_like, shard_state_like
from blocklocal.network.neighbours import Neighbours
from blocklocal.schemas.checkpoint import TensorKind
from blocklocal.training.checkpoint_files import RANDOM, STATE, Files, write_checksums
from blocklocal.training.learner_state import kinds, pack, unpack
from blocklocal.training.optimizer_check import check_optimizer

KEEP = 2
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
        draft.write(network.learners)
        return draft.complete(state, [describe(learner) for learner in network.learners])
    except BaseException:
        shutil.rmtree(draft.partial, ignore_errors=True)
        raise


@dataclass(frozen=True)
class Draft:
    """A checkpoint that is being written, perhaps by several processes: each its own learners, one completes it."""

    final: Path
    step: int

    @property
    def partial(self) -> Path:
        return self.final.with_name(f".partial-{self.final.name}")

    @classmethod
    def open(cls, folder: Path, step: int) -> "Draft":
        """Choose the name and make the temporary folder."""
        folder.mkdir(exist_ok=True)  # never the run folder again, where it is gone
        draft, count = cls(folder / f"step-{step:08d}", step), 1
        # Never the name of an older checkpoint, which must stay until the new one is complete, or of one in the making.
        while draft.partial.exists() or draft.final.exists():  # in this order: the one becomes the other
            count += 1
            draft = cls(folder / f"step-{step:08d}.{count}", step)
        draft.partial.mkdir()
        return draft

    def write(self, learners: Sequence[BlockLearner]) -> None:
        """The files of these learners, flushed to the disk."""
        for learner in learners:
            _save_learner(self.partial, Saved.of(learner))
        _sync(
            [
                self.partial / f"block-{learner.index}.{kind}"
                for learner in learners
                for kind in ("safetensors", "optimizer")
            ]
        )

    def complete(self, state: dict, described: list[dict]) -> Path:
        """Write what is common to all, rename, and remove what is superseded.

        Args:
            described: `describe` of every learner.
        """
        before = list_checkpoints(self.final.parent)
        _save_tensors({"cpu": torch.get_rng_state()}, self.partial / RANDOM)
        (self.partial / STATE).write_text(json.dumps({**state, "units": described}, indent=1))
        _sync([self.partial / RANDOM, self.partial / STATE, write_checksums(self.partial), self.partial])
        self.partial.rename(self.final)
        # of the same step, or of a way not taken: the user went back to an older checkpoint
        superseded = [path for path in before if path.name >= f"step-{self.step:08d}"]
        older = [path for path in before if path not in superseded]
        for path in [*superseded, *older[: len(older) - KEEP + 1]]:
            _remove(path)
        return self.final


def _remove(path: Path) -> None:
    """Rename first: a half removed checkpoint must not look like a complete one."""
    leftover = path.rename(path.with_name(f".partial-{path.name}"))
    shutil.rmtree(leftover, ignore_errors=True)


@dataclass(frozen=True)
class Saved:
    """What is saved of the learner of block `index`."""

    index: int
    weights: dict[str, torch.Tensor]
    optimizer: dict

    @classmethod
    def of(cls, learner: BlockLearner) -> "Saved":
        """What is saved of this learner. Where replicas share its parameters (`shards`), all of them must call this."""
        weights = pack(learner.state_dict())
        optimizer = {
            "optimizer": gather_full_state(learner.optimizer.state_dict()) if learner.optimizer else None,
            "schedule": learner.schedule.state_dict() if learner.schedule else None,
        }
        return cls(learner.index, weights, optimizer)


def _save_learner(folder: Path, saved: Saved) -> None:
    # As bytes: written by the library itself, a full disk would be another library's error instead of an OSError.
    (folder / f"block-{saved.index}.safetensors").write_bytes(save(saved.weights))
    _save_tensors(saved.optimizer, folder / f"block-{saved.index}.optimizer")


def _save_tensors(value: dict, path: Path) -> None:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    path.write_bytes(buffer.getbuffer())


def _sync(paths: Iterable[Path]) -> None:
    """Flush to the disk, so that the rename never gets there before the contents."""
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def clear_leftovers(folder: Path) -> None:
    """Remove what a kill has left half written."""
    for leftover in folder.glob(".partial-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def describe(learner: BlockLearner) -> dict[str, Any]:
    """Names, shapes and types of a learner's tensors: the architecture a checkpoint belongs to."""
    return kinds(learner.state_dict())


def list_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first; none where there is no such folder.

    Raises:
        InputError: the folder cannot be looked into, which is not the same as an empty one.
    """
    if not os.path.lexists(folder):
        return []
    try:
        named = [path for path in folder.iterdir() if path.name.startswith("step-")]
        return sorted(path for path in named if (path / STATE).is_file())
    except OSError as error:
        raise InputError(
            f"the checkpoints in {folder} cannot be listed ({error.strerror or error}): make it a folder that can be "
            "read again."
        ) from error


def load_checkpoint(path: Path, network: Neighbours, *, optimizers: bool = True) -> dict:
    """Load weights and, unless `optimizers` is False, optimisers and torch's random state.

    Where the network is a process's share of the blocks, only theirs are read. Nothing is loaded before all files are
    checked.

    Returns:
        The saved state.

    Raises:
        InputError: the checkpoint is damaged (the message names an older one where there is one), or of another
            architecture.
    """
    files = Files.open(path, [other.name for other in list_checkpoints(path.parent) if other.name < path.name])
    state, checked = files.state()
    _check_same(path, checked.units, network)
    weights = [files.weights(learner.index, describe(learner), _parameters(learner)) for learner in network.learners]
    learned = [_load_optimizer(files, learner) for learner in network.learners] if optimizers else []
    random = files.random_state() if optimizers else None
    for learner, tensors in zip(network.learners, weights, strict=True):
        now = learner.state_dict()
        learner.load_state_dict(unpack({name: shard_like(tensor, now.get(name)) for name, tensor in tensors.items()}))
    for learner, kept in zip(network.learners, learned, strict=False):
        if learner.optimizer is not None and learner.schedule is not None:
            learner.optimizer.load_state_dict(shard_state_like(kept["optimizer"], learner.optimizer))
            learner.schedule.load_state_dict(kept["schedule"])
    if random is not None:
        torch.set_rng_state(random)
    network.steps = checked.step
    return {name: value for name, value in state.items() if name != "units"}


def _parameters(learner: BlockLearner) -> set[str]:
    return {name for name, _ in learner.named_parameters(remove_duplicate=False)}


def _load_optimizer(files: Files, learner: BlockLearner) -> dict[str, Any]:
    name = f"block-{learner.index}.optimizer"
    kept = files.tensors(name, OPTIMIZER)
    try:
        check_optimizer(kept, learner)
    except ValueError as error:
        raise files.damaged(name, error) from error
    return kept


def _check_same(path: Path, saved: Sequence[dict[str, list[int] | TensorKind]], network: Neighbours) -> None:
    if len(saved) != network.count:
        raise InputError(
            f"{path} holds {len(saved)} blocks, the network has {network.count}: use the run's own config.json."
        )
    for learner in network.learners:
        old, new = saved[learner.index], describe(learner)
        for name in sorted({*old, *new}):
            there, here = _said(old.get(name)), _said(new.get(name), dtype=isinstance(old.get(name), TensorKind))
            if there != here:
                raise InputError(
                    f"{path} is of another architecture: block {learner.index + 1}, {name!r} is {there} there and "
                    f"{here} in the network. Use the run's own config.json, and the version of blocklocal that trained "
                    "it."
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
