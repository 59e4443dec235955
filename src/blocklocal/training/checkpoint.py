"""Checkpoints: one folder per saved step, complete or not there at all.

    RUN/checkpoints/step-00000400/
        block-0.safetensors …   weights and buffers of every unit (block, twin, readout, decoders)
        block-0.optimizer …     its optimiser and schedule (tensors and builtins only)
        state.json              architecture, position in training, tallies
        rng.pt                  torch's global random state, for a user's own code (the library names its streams)

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

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from blocklocal.errors import InputError
from blocklocal.shards import divided, divided_state, whole, whole_state
from blocklocal.training.learner import Learner
from blocklocal.unit import BlockUnit

KEEP = 2
LEARNER = {"optimizer", "schedule"}


def save_checkpoint(folder: Path, network: Learner, state: dict) -> Path:
    """Write the network and `state` (JSON-able; it must hold "step") below `folder`; returns the checkpoint's path.

    Raises OSError where the disk is full; what was there before is untouched then.
    """
    clear_leftovers(folder)
    draft = Draft.open(folder, state["step"])
    try:
        draft.write(network.units)
        return draft.complete(state, [describe(unit) for unit in network.units])
    except BaseException:
        shutil.rmtree(draft.partial, ignore_errors=True)
        raise


@dataclass(frozen=True)
class Draft:
    """A checkpoint that is being written, perhaps by several processes: each its own units, one completes it."""

    final: Path
    step: int

    @property
    def partial(self) -> Path:
        return self.final.with_name(f".partial-{self.final.name}")

    @classmethod
    def open(cls, folder: Path, step: int) -> "Draft":
        """Choose the name and make the temporary folder."""
        folder.mkdir(parents=True, exist_ok=True)
        draft, count = cls(folder / f"step-{step:08d}", step), 1
        # Never the name of an older checkpoint, which must stay until the new one is complete, or of one in the making.
        while draft.partial.exists() or draft.final.exists():  # in this order: the one becomes the other
            count += 1
            draft = cls(folder / f"step-{step:08d}.{count}", step)
        draft.partial.mkdir()
        return draft

    def write(self, units: Sequence[BlockUnit]) -> None:
        """The files of these units, flushed to the disk."""
        for unit in units:
            _save_unit(self.partial, Saved.of(unit))
        _sync([self.partial / f"block-{unit.index}.{kind}" for unit in units for kind in ("safetensors", "optimizer")])

    def complete(self, state: dict, described: list[dict]) -> Path:
        """Write what is common to all units, rename, and remove what is superseded; `described`: of every unit."""
        before = list_checkpoints(self.final.parent)
        _save_tensors({"cpu": torch.get_rng_state()}, self.partial / "rng.pt")
        (self.partial / "state.json").write_text(json.dumps({**state, "units": described}, indent=1))
        _sync([self.partial / "rng.pt", self.partial / "state.json", self.partial])
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
    """What is saved of the unit of block `index`."""

    index: int
    weights: dict[str, torch.Tensor]
    learner: dict

    @classmethod
    def of(cls, unit: BlockUnit) -> "Saved":
        """Where replicas share its parameters (`shards`), all of them must come here."""
        weights = {
            name: whole(tensor.detach()).clone(memory_format=torch.contiguous_format)
            for name, tensor in unit.state_dict().items()
        }
        learner = {
            "optimizer": whole_state(unit.optimizer.state_dict()) if unit.optimizer else None,
            "schedule": unit.schedule.state_dict() if unit.schedule else None,
        }
        return cls(unit.index, weights, learner)


def _save_unit(folder: Path, saved: Saved) -> None:
    # As bytes: written by the library itself, a full disk would be another library's error instead of an OSError.
    (folder / f"block-{saved.index}.safetensors").write_bytes(save(saved.weights))
    _save_tensors(saved.learner, folder / f"block-{saved.index}.optimizer")


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


def describe(unit: BlockUnit) -> dict[str, list[int]]:
    """Names and shapes of a unit's tensors: the architecture a checkpoint belongs to."""
    return {name: list(tensor.shape) for name, tensor in unit.state_dict().items()}


def list_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(path for path in folder.glob("step-*") if (path / "state.json").is_file())


def load_checkpoint(path: Path, network: Learner, *, learners: bool = True) -> dict:
    """Load weights (and optimisers and torch's random state, unless `learners` is False); returns the saved state.

    Where the network is a process's share of the blocks, only theirs are read. Raises InputError for a damaged
    checkpoint (naming an older one where there is one) and for another architecture.
    """
    try:
        state = json.loads((path / "state.json").read_text())
        saved = [dict(unit) for unit in state.pop("units")]
        step = int(state["step"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, "state.json", error) from error
    _check_same(path, saved, network)
    weights = [_load_weights(path, unit.index, saved[unit.index]) for unit in network.units]
    names = [f"block-{unit.index}.optimizer" for unit in network.units] if learners else []
    learned = [_load_tensors(path, name, LEARNER) for name in names]
    random = _load_tensors(path, "rng.pt", {"cpu"}) if learners else None
    for unit, tensors in zip(network.units, weights, strict=True):
        now = unit.state_dict()
        unit.load_state_dict({name: divided(tensor, now[name]) for name, tensor in tensors.items()})
    for unit, learner in zip(network.units, learned, strict=False):
        if unit.optimizer is not None and unit.schedule is not None:
            unit.optimizer.load_state_dict(divided_state(learner["optimizer"], unit.optimizer))
            unit.schedule.load_state_dict(learner["schedule"])
    if random is not None:
        torch.set_rng_state(random["cpu"])
    network.steps = step
    return state


def _load_weights(path: Path, k: int, shapes: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    file = path / f"block-{k}.safetensors"
    try:
        tensors = load_file(file)
        if {name: list(tensor.shape) for name, tensor in tensors.items()} != shapes:
            raise ValueError("other tensors than state.json lists")
    except (OSError, ValueError, SafetensorError) as error:
        raise _damaged(path, file.name, error) from error
    return tensors


def _load_tensors(path: Path, file: str, keys: set[str]) -> dict:
    try:
        loaded = torch.load(path / file, map_location="cpu", weights_only=True)
        if set(loaded) != keys:
            raise ValueError(f"it holds other things than {', '.join(sorted(keys))}")
    except Exception as error:  # torch.load raises whatever the damaged bytes lead its unpickler to
        raise _damaged(path, file, error) from error
    return loaded


def _check_same(path: Path, saved: list[dict], network: Learner) -> None:
    if len(saved) != network.count:
        raise InputError(
            f"{path} holds {len(saved)} blocks, the network has {network.count}: use the run's own config.json."
        )
    for unit in network.units:
        old, new = saved[unit.index], describe(unit)
        for name in sorted({*old, *new}):
            if old.get(name) != new.get(name):
                raise InputError(
                    f"{path} is of another architecture: block {unit.index + 1}, {name!r} is "
                    f"{old.get(name, 'absent')} there and {new.get(name, 'absent')} in the network. Use the run's own "
                    "config.json, and the version of blocklocal that trained it."
                )


def _damaged(path: Path, file: str, error: Exception) -> InputError:
    older = [p for p in list_checkpoints(path.parent) if p.name < path.name]
    remedy = f"An older one is there: --checkpoint {older[-1].name}." if older else "There is no older one: train anew."
    return InputError(f"the checkpoint {path} cannot be read ({file}: {type(error).__name__}). {remedy}")
