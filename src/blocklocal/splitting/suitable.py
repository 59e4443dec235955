"""What a network must be like so that blocks can stand for it."""

from collections.abc import Iterator, Sequence
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from blocklocal._common.errors import InputError
from blocklocal.splitting.copying import copy_in_mode
from blocklocal.splitting.layers import has_hooks, owns_train


def check_module(model: object) -> None:
    """Raise InputError for what is no plain module, and for what happens around its forward and would be lost."""
    kind = type(model).__name__
    if not isinstance(model, nn.Module):
        raise InputError(f"split takes an nn.Module, not {kind}.")
    if isinstance(model, torch.jit.ScriptModule):
        raise InputError("the network is compiled by torch.jit and cannot be cut: give the module it was made from.")
    if hasattr(model, "_orig_mod"):
        raise InputError("the network is wrapped by torch.compile: give the module it was made from (model._orig_mod).")
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        raise InputError(f"the network is wrapped by {kind}: give the module inside it (model.module).")
    if has_hooks(model) and not any(is_lazy(p) for p in model.parameters(recurse=False)):
        raise InputError(
            f"{kind} has a forward or backward hook, which runs when the whole network is called, and its blocks are "
            "called instead: remove it (handle.remove()), or hang it on one of its modules."
        )
    if owns_train(model):
        _check_train(model)


def _check_train(model: nn.Module) -> None:
    """Raise InputError where the network's own train() keeps a part in evaluation mode: blocks are switched alone."""
    trial = copy_in_mode(model, training=True)
    own = [f"{name}." for name, part in trial.named_modules() if name and owns_train(part)]
    held = [name for name, part in trial.named_modules() if not part.training]
    lost = [name for name in held if not any(f"{name}.".startswith(prefix) for prefix in own)]
    if lost:
        raise InputError(
            f"the train() of {type(model).__name__} keeps {lost[0]!r} in evaluation mode, and its blocks are switched "
            f"by themselves: make {lost[0]!r} a module with this train() of its own."
        )


def check_unshared(model: nn.Module, parts: Sequence[nn.Module]) -> None:
    """Raise InputError where two blocks would train one weight: they would not be local."""
    owner: dict[object, int] = {}
    for k, part in enumerate(parts):
        for tensor in chain(part.parameters(), part.buffers()):
            for key in _places(tensor):
                if owner.setdefault(key, k) != k:
                    raise InputError(
                        f"{_owner(model, tensor)} would belong to blocks {owner[key] + 1} and {k + 1}: "
                        "a module may be used in one block only. Cut elsewhere, or give each block a copy."
                    )


def _places(tensor: Tensor) -> Iterator[object]:
    """What two tensors share that are one: the object, and of weights the memory at which both begin."""
    yield id(tensor)
    held = isinstance(tensor, nn.Parameter) and not is_lazy(tensor) and tensor.layout is torch.strided
    if held and tensor.device.type != "meta" and tensor.numel():
        yield tensor.device, tensor.data_ptr()


def _owner(model: nn.Module, tensor: Tensor) -> str:
    named = chain(model.named_parameters(), model.named_buffers())
    name = next((name for name, other in named if other is tensor), "a tensor without a name")
    module, _, leaf = name.rpartition(".")
    return f"{module!r} (its {leaf})" if module else repr(name)
