"""Checkpoints: one folder per saved step, complete or not there at all.

    RUN/checkpoints/step-00000400/
        block-0.safetensors …   weights and buffers of every unit (block, twin, readout, decoders)
        block-0.optimizer …     its optimiser and schedule (tensors and builtins only)
        state.json              architecture, position in training, tallies
        rng.pt                  torch's global random state, for a user's own code

A checkpoint is written under a temporary name beside the older one and renamed, so that a kill at any moment leaves a
loadable run; the two newest are kept.
"""

import json
import os
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from blocklocal.errors import InputError
from blocklocal.network import BlockLocal
from blocklocal.unit import BlockUnit

KEEP = 2


def save_checkpoint(folder: Path, network: BlockLocal, state: dict) -> Path:
    """Write the network and `state` (JSON-able; it must hold "step") below `folder`; returns the checkpoint's path.

    Raises OSError where the disk is full; what was there before is untouched then.
    """
    final = folder / f"step-{state['step']:08d}"
    partial = folder / f".partial-{final.name}-{os.getpid()}"
    folder.mkdir(parents=True, exist_ok=True)
    _clear_leftovers(folder)
    partial.mkdir()
    try:
        for k, unit in enumerate(network.units):
            _save_unit(partial, k, unit)
        torch.save({"cpu": torch.get_rng_state()}, partial / "rng.pt")
        described = {**state, "units": [describe(unit) for unit in network.units]}
        (partial / "state.json").write_text(json.dumps(described, indent=1))
        _sync(partial)
        if final.exists():
            shutil.rmtree(final)
        partial.rename(final)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    for old in list_checkpoints(folder)[:-KEEP]:
        shutil.rmtree(old)
    return final


def _save_unit(folder: Path, k: int, unit: BlockUnit) -> None:
    tensors = {
        name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in unit.state_dict().items()
    }
    save_file(tensors, folder / f"block-{k}.safetensors")
    learner = {
        "optimizer": unit.optimizer.state_dict() if unit.optimizer else None,
        "schedule": unit.schedule.state_dict() if unit.schedule else None,
    }
    torch.save(learner, folder / f"block-{k}.optimizer")


def _sync(folder: Path) -> None:
    """Flush to the disk, so that the rename never gets there before the contents."""
    for path in [*folder.iterdir(), folder]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _clear_leftovers(folder: Path) -> None:
    for leftover in folder.glob(".partial-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def describe(unit: BlockUnit) -> dict[str, list[int]]:
    """Names and shapes of a unit's tensors: the architecture a checkpoint belongs to."""
    return {name: list(tensor.shape) for name, tensor in unit.state_dict().items()}


def list_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(path for path in folder.glob("step-*") if (path / "state.json").is_file())


def load_checkpoint(path: Path, network: BlockLocal, *, learners: bool = True) -> dict:
    """Load weights (and optimisers, unless `learners` is False) in place; returns the saved state.

    Raises InputError for a damaged checkpoint (naming an older one where there is one) and for another architecture.
    """
    try:
        state = json.loads((path / "state.json").read_text())
        saved = state.pop("units")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(path, "state.json", error) from error
    _check_same(path, saved, [describe(unit) for unit in network.units])
    weights = [_load_weights(path, k) for k in range(len(saved))]
    learned = [_load_learner(path, k) for k in range(len(saved))] if learners else []
    for unit, tensors in zip(network.units, weights, strict=True):
        unit.load_state_dict(tensors)
    for unit, learner in zip(network.units, learned, strict=False):
        if unit.optimizer is not None and unit.schedule is not None:
            unit.optimizer.load_state_dict(learner["optimizer"])
            unit.schedule.load_state_dict(learner["schedule"])
    network.steps = state["step"]
    return state


def _load_weights(path: Path, k: int) -> dict[str, torch.Tensor]:
    file = path / f"block-{k}.safetensors"
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise _damaged(path, file.name, error) from error


def _load_learner(path: Path, k: int) -> dict:
    file = path / f"block-{k}.optimizer"
    try:
        return torch.load(file, weights_only=True)
    except Exception as error:  # torch.load raises whatever the damaged bytes lead its unpickler to
        raise _damaged(path, file.name, error) from error


def _check_same(path: Path, saved: list[dict], present: list[dict]) -> None:
    if saved == present:
        return
    if len(saved) != len(present):
        raise InputError(
            f"{path} holds {len(saved)} blocks, the network has {len(present)}: use the run's own config.json."
        )
    for k, (old, new) in enumerate(zip(saved, present, strict=True)):
        for name in sorted({*old, *new}):
            if old.get(name) != new.get(name):
                raise InputError(
                    f"{path} is of another architecture: block {k + 1}, {name!r} is {old.get(name, 'absent')} there "
                    f"and {new.get(name, 'absent')} in the network. Use the run's own config.json."
                )


def _damaged(path: Path, file: str, error: Exception) -> InputError:
    older = [p for p in list_checkpoints(path.parent) if p.name < path.name]
    remedy = f"An older one is there: --checkpoint {older[-1].name}." if older else "There is no older one: train anew."
    return InputError(f"the checkpoint {path} cannot be read ({file}: {type(error).__name__}). {remedy}")
