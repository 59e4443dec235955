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

import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

import torch

from blocklocal._common.errors import InputError
from blocklocal.block.learner import BlockLearner
from blocklocal.block.shards import gather_full_state, shard_like, shard_state_like
from blocklocal.network.neighbours import Neighbours
from blocklocal.schemas.checkpoint import Checksum, TensorKind
from blocklocal.training.advice import OF_RUN, Advice
from blocklocal.training.checkpoint_files import RANDOM, STATE, Files, write_checksums
from blocklocal.training.learner_state import kinds, pack, unpack
from blocklocal.training.moments import divide
from blocklocal.training.optimizer_check import check_optimizer
from blocklocal.training.tensor_file import SummedFile, write_tensors

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
        network.each(draft.write)
        return draft.complete(state, [describe(learner) for learner in network.learners])
    except BaseException:
        shutil.rmtree(draft.partial, ignore_errors=True)
        raise


@dataclass(frozen=True)
class Draft:
    """A checkpoint that is being written, perhaps by several processes: each its own learners, one completes it."""

    final: Path
    step: int
    sums: dict[str, Checksum] = field(default_factory=dict)  # of the files that were written here

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

    def write(self, learner: BlockLearner) -> None:
        """The files of this learner, flushed to the disk."""
        self.write_saved(Saved.of(learner))

    def write_saved(self, saved: "Saved") -> None:
        """As `write`, of what was taken from a learner before."""
        block = f"block-{saved.index}"
        rest, moments = divide(saved.optimizer)
        self._written(f"{block}.safetensors", write_tensors, saved.weights)
        if moments:
            self._written(f"{block}.moments", write_tensors, moments)
        self._written(f"{block}.optimizer", _save_tensors, rest)

    def _written(self, name: str, write: Callable[[Path, Any], Checksum], content: dict) -> None:
        self.sums[name] = write(self.partial / name, content)
        _sync([self.partial / name])

    def link(self, files: Files) -> None:
        """The blocks of a complete checkpoint are those of this one too: no second copy where links are possible."""
        for name, checksum in (files.sums or {}).items():
            if name.startswith("block-"):
                _link(files.path / name, self.partial / name)
                self.sums[name] = checksum

    def complete(self, state: dict, described: list[dict], *, keep: int = KEEP) -> Path:
        """As `finish`, and remove what is superseded.

        Args:
            state: where training stands (JSON-able).
            described: of every learner, what `describe` says.
            keep: complete checkpoints that stay, this one among them.
        """
        self.finish(state, described)
        self.supersede(keep)
        return self.final

    def finish(self, state: dict, described: list[dict]) -> Path:
        """Write what is common to all, and rename: the checkpoint is there as a whole or not at all.

        Args:
            state: where training stands (JSON-able).
            described: of every learner, what `describe` says.
        """
        _save_tensors(self.partial / RANDOM, {"cpu": torch.get_rng_state()})
        (self.partial / STATE).write_text(json.dumps({**state, "units": described}, indent=1))
        _sync([self.partial / RANDOM, self.partial / STATE, write_checksums(self.partial, self.sums), self.partial])
        return self.partial.rename(self.final)

    def supersede(self, keep: int) -> None:
        """Remove the older checkpoints that this complete one takes the place of.

        Args:
            keep: complete checkpoints that stay, this one among them.
        """
        before = [path for path in list_checkpoints(self.final.parent) if path != self.final]
        # of the same step, or of a way not taken: the user went back to an older checkpoint
        superseded = [path for path in before if path.name >= f"step-{self.step:08d}"]
        older = [path for path in before if path not in superseded]
        for path in [*superseded, *older[: len(older) - keep + 1]]:
            remove(path)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copyfile(source, target)
        _sync([target])


def adopt(kept: Path, step: int, folder: Path) -> Path:
    """Make a complete checkpoint one of `folder` too: no second copy where links are possible.

    Args:
        kept: its folder.
        step: steps that the network had taken.
        folder: where it shall be.

    Returns:
        Its path there.
    """
    draft = Draft.open(folder, step)
    try:
        for file in sorted(kept.iterdir()):
            _link(file, draft.partial / file.name)
        _sync([draft.partial])
        return draft.partial.rename(draft.final)
    except BaseException:
        shutil.rmtree(draft.partial, ignore_errors=True)
        raise


def remove(path: Path) -> None:
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


def _save_tensors(path: Path, value: dict) -> Checksum:
    with SummedFile(path) as file:
        try:
            torch.save(value, cast(IO[bytes], file))
        except RuntimeError as error:  # what torch makes of an error of writing
            raise file.failed or error from error
        return file.checksum


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
    if folder.is_symlink() and not folder.exists():
        raise InputError(
            f"the checkpoints in {folder} cannot be listed: it is a link to {os.readlink(folder)}, the store where the "
            "blocks of this run rest, which is not there. Put it back, or let the link lead to where it is now."
        )
    try:
        named = [path for path in folder.iterdir() if path.name.startswith("step-")]
        return sorted(path for path in named if (path / STATE).is_file())
    except OSError as error:
        raise InputError(
            f"the checkpoints in {folder} cannot be listed ({error.strerror or error}): make it a folder that can be "
            "read again."
        ) from error


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
    """A complete checkpoint, as a network takes it (`network.neighbours.Kept`).

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

    def check(self, learner: BlockLearner, kept: Saved) -> None:
        if not self.optimizers:
            return
        try:
            check_optimizer(kept.optimizer, learner)
        except ValueError as error:
            if self.files.advice.configure is None:
                raise self.files.damaged(f"block-{learner.index}.optimizer", error) from error
            raise InputError(
                f"the optimisers or schedules in {self.path} are not those of this network (block {learner.index + 1}: "
                f"{error}). {self.files.advice.configure}"
            ) from error

    def give(self, learner: BlockLearner, kept: Saved) -> None:
        now = learner.state_dict()
        learner.load_state_dict(
            unpack({name: shard_like(tensor, now.get(name)) for name, tensor in kept.weights.items()})
        )
        if self.optimizers and learner.optimizer is not None and learner.schedule is not None:
            learner.optimizer.load_state_dict(shard_state_like(kept.optimizer["optimizer"], learner.optimizer))
            learner.schedule.load_state_dict(kept.optimizer["schedule"])


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
