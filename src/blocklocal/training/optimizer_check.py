"""Whether a saved optimiser and schedule are of the block that is to go on with them.

torch's own `load_state_dict` takes tensors of any shape and values of any type, and fails, or learns something else,
steps later.
"""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from blocklocal.block.average import AVERAGE
from blocklocal.block.learner import BlockLearner
from blocklocal.block.scaling import SCALER

MOMENTS = ("step", "exp_avg", "exp_avg_sq")
KEPT: dict[type[torch.optim.Optimizer], tuple[str, ...]] = {
    torch.optim.SGD: ("momentum_buffer",),
    torch.optim.Adam: MOMENTS,
    torch.optim.AdamW: MOMENTS,
}


def check_optimizer(saved: dict[str, Any], learner: BlockLearner) -> None:
    """Refuse saved optimiser and schedule that do not fit the learner.

    Args:
        saved: {"optimizer", "schedule"}, both None for a learner without one.

    Raises:
        ValueError: the message says what does not fit.
    """
    for name, own in (("optimizer", learner.optimizer), ("schedule", learner.schedule)):
        if (saved[name] is None) != (own is None):
            raise ValueError(f"{name} is {'absent' if saved[name] is None else 'there'}, unlike in the network")
    if learner.optimizer is not None:
        _check_state(saved["optimizer"], learner.optimizer, averages=learner.ema is not None)
    if learner.schedule is not None:
        _check_values("schedule", saved["schedule"], learner.schedule.state_dict())
        if saved["schedule"].get("last_epoch", 0) < 0:
            raise ValueError("schedule: last_epoch is negative")


def _check_state(saved: Any, optimizer: torch.optim.Optimizer, *, averages: bool) -> None:
    own = optimizer.state_dict()
    if not isinstance(saved, dict) or not {"state", "param_groups"} <= set(saved) <= {"state", "param_groups", SCALER}:
        raise ValueError("optimizer is no state of an optimiser")
    if (SCALER in saved) != (SCALER in own):
        raise ValueError(
            f"optimizer has {'a' if SCALER in saved else 'no'} loss scale, unlike in the network (float16)"
        )
    if SCALER in own:
        _check_values(SCALER, saved[SCALER], own[SCALER])
    groups, states = saved["param_groups"], saved["state"]
    if not isinstance(groups, list) or len(groups) != len(own["param_groups"]) or not isinstance(states, dict):
        raise ValueError("optimizer is of other groups of parameters")
    for group, wanted in zip(groups, own["param_groups"], strict=True):
        _check_values("optimizer", group, wanted)
        if group["params"] != wanted["params"]:
            raise ValueError("optimizer is of other parameters")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    kept = _kept(optimizer)
    for index, state in states.items():
        if not isinstance(index, int) or not 0 <= index < len(parameters) or not isinstance(state, dict):
            raise ValueError(f"optimizer: there is no parameter {index!r}")
        if (AVERAGE in state) != averages:
            raise ValueError(f"optimizer keeps {'no' if averages else 'a'} running mean of the weights (ema)")
        if averages:
            _check_tensor(f"{AVERAGE} of parameter {index}", state[AVERAGE], parameters[index], scalar=False)
            state = {name: value for name, value in state.items() if name != AVERAGE}
        if kept is None:
            continue
        if not set(kept) >= set(state) or (len(kept) > 1 and len(state) != len(kept)):
            raise ValueError(f"optimizer keeps {', '.join(map(str, state))} of a parameter, not {', '.join(kept)}")
        for name, value in state.items():
            _check_tensor(f"{name} of parameter {index}", value, parameters[index], scalar=name == "step")


def _kept(optimizer: torch.optim.Optimizer) -> tuple[str, ...] | None:
    """What an optimiser keeps of a parameter; None for one of a user's function, whose state torch itself checks."""
    kept = KEPT.get(type(optimizer))
    amsgrad = kept is MOMENTS and any(group.get("amsgrad") for group in optimizer.param_groups)
    return (*MOMENTS, "max_exp_avg_sq") if amsgrad else kept


def _check_tensor(what: str, value: Any, parameter: Tensor, *, scalar: bool) -> None:
    if value is None and not scalar and not what.startswith(AVERAGE):
        return
    if not isinstance(value, Tensor):
        raise ValueError(f"optimizer: {what} is no tensor")
    shape, dtype = (torch.Size(), torch.float32) if scalar else (parameter.shape, parameter.dtype)
    if value.shape != shape or value.dtype != dtype:
        raise ValueError(f"optimizer: {what} is {list(value.shape)} {value.dtype}, and must be {list(shape)} {dtype}")


def _check_values(what: str, saved: Any, own: dict[str, Any]) -> None:
    """The same keys and kinds of values; some keys (`_told`) come and go between versions of torch."""
    if not isinstance(saved, dict) or not all(isinstance(key, str) for key in saved):
        raise ValueError(f"{what} is no object")
    for key in _told({*saved, *own}):
        if key not in saved or (key not in own and what == "schedule"):
            raise ValueError(f"{what}: {key} is {'missing' if key not in saved else 'unknown'}")
    for key in saved.keys() & own.keys():
        if not _alike(saved[key], own[key]):
            raise ValueError(f"{what}: {key} is {str(saved[key])[:60]!r}, and must be like {str(own[key])[:60]!r}")


def _told(keys: Iterable[str]) -> list[str]:
    newer = ("verbose", "decoupled_weight_decay")
    return sorted(key for key in keys if not key.startswith("_") and key not in newer)


def _alike(value: Any, own: Any) -> bool:
    """Of one kind, and finite."""
    if isinstance(own, bool) or own is None:
        return value is None or isinstance(value, bool)
    if isinstance(own, int | float):
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if isinstance(own, list | tuple):
        same = isinstance(value, list | tuple) and len(value) == len(own)
        return same and all(_alike(*pair) for pair in zip(value, own, strict=True))
    if isinstance(own, dict):
        return isinstance(value, dict) and value.keys() == own.keys() and all(_alike(value[k], own[k]) for k in own)
    return type(value) is type(own)
