"""Copies of a user's module, also of one that holds what `copy.deepcopy` refuses."""

import copy
from collections.abc import Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, is_lazy

from blocklocal._common.errors import InputError

M = TypeVar("M", bound=nn.Module)


def copy_module(module: M) -> M:
    """A deep copy of a module.

    What cannot be copied (a lock, an open file) is held by both. A tensor with a graph (one that a forward has kept) is
    copied without it.

    Raises:
        InputError: the module cannot be copied in this way either.
    """
    memo: dict[int, Any] = {}
    try:
        return copy.deepcopy(module)
    except Exception:  # objects in a user's module may raise anything
        _Stand(module, memo).go()
    try:
        return copy.deepcopy(module, memo)
    except Exception as reason:
        raise InputError(
            f"{type(module).__name__} cannot be copied: copy.deepcopy(model) raises {type(reason).__name__}: {reason}. "
            "Make it copyable, for example with a method __deepcopy__ of what it holds."
        ) from reason


def copy_in_mode(module: M, training: bool) -> M:
    """A copy in train or eval mode. A user's own train() and eval() may return anything, and only they are called."""
    copied = copy_module(module)
    copied.train() if training else copied.eval()
    return copied


class _Stand:
    """Enters into a memo of `copy.deepcopy` what stands for each thing in `module` that it refuses."""

    def __init__(self, module: nn.Module, memo: dict[int, Any]):
        self.module, self.memo = module, memo
        self.modules = {id(part): part for part in module.modules()}  # so that a look at one thing ends at the next
        self.seen: set[int] = set()

    def go(self) -> None:
        for part in self.module.modules():
            for name, value in vars(part).items():
                if name != "_modules":
                    self._settle(value)

    def _settle(self, value: Any) -> None:
        if id(value) in self.memo or id(value) in self.modules or id(value) in self.seen:
            return
        self.seen.add(id(value))
        if self._copies(value):
            return
        for inner in _held(value):
            self._settle(inner)
        if isinstance(value, Tensor) and is_lazy(value):  # a lazy layer's statistics
            self.memo[id(value)] = UninitializedBuffer(device=value.device, dtype=value.dtype)  # pyrefly: ignore
        elif isinstance(value, Tensor):
            self.memo[id(value)] = value.detach().clone()
        elif isinstance(value, torch.Generator):
            self.memo[id(value)] = value.clone_state()
        elif not self._copies(value):
            self.memo[id(value)] = value

    def _copies(self, value: Any) -> bool:
        try:
            copy.deepcopy(value, self.modules | self.memo)
        except Exception:  # the question is whether it raises
            return False
        return True


def _held(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, (list, tuple, set, frozenset)):
        return list(value)
    return [] if isinstance(value, (Tensor, nn.Module)) else list(getattr(value, "__dict__", {}).values())
