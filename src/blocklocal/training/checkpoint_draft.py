"""A checkpoint while it is written: files under a temporary name, then one rename."""

import json
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

import torch

from blocklocal.block.learner import BlockLearner
from blocklocal.block.shards import gather_full_state
from blocklocal.schemas.checkpoint import Checksum
from blocklocal.training.checkpoint_files import RANDOM, STATE, Files, write_checksums
from blocklocal.training.checkpoint_folder import list_checkpoints, remove
from blocklocal.training.learner_state import kinds, pack
from blocklocal.training.moments import divide
from blocklocal.training.tensor_file import SummedFile, write_tensors

KEEP = 2


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


def describe(learner: BlockLearner) -> dict[str, Any]:
    """Names, shapes and types of a learner's tensors: the architecture a checkpoint belongs to."""
    return kinds(learner.state_dict())
