"""The network as one block sees it: its own modules, and hollow ones in the place of all others."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils import _pytree as pytree

from blocklocal._common.errors import InputError
from blocklocal.splitting.blanks import made


@dataclass
class Incoming:
    """What a running block has been given; all its hollow modules read it.

    Attributes:
        values: by storage.
        counts: how often each hollow module was called in this run.
    """

    hidden: Tensor | None = None
    values: dict[int, Tensor] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def clear(self) -> None:
        self.hidden = None
        self.values, self.counts = {}, {}


@dataclass(frozen=True)
class Reply:
    """What a hollow module gives at one of its calls."""

    leaves: Sequence[Any]
    form: Any


class Hollow(nn.Module):
    """A module without weights that gives what the message holds, and blanks for the rest.

    It has the plain attributes of the module that it stands for, and empty tensors for its weights, for a forward that
    asks for a type or a setting.

    Args:
        replies: one for each call before this block.
        real: what runs at the calls after those, if there are any.
    """

    def __init__(
        self, path: str, module: nn.Module, given: Incoming, replies: Sequence[Reply], real: nn.Module | None = None
    ):
        super().__init__()
        self.__dict__.update(plain_attributes(module))
        self._path, self._given, self._replies = path, given, replies
        for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
            if not is_lazy(tensor):
                self.register_buffer(name, tensor.detach().new_empty(0), persistent=False)
        for name, child in module.named_children():
            self._modules[name] = Hollow(f"{path}.{name}", child, given, [])
        self._real = real

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        given = self._given
        number = given.counts.get(self._path, 0)
        given.counts[self._path] = number + 1
        if number < len(self._replies):
            assert given.hidden is not None
            reply = self._replies[number]
            return pytree.tree_unflatten(made(reply.leaves, given.hidden, given.values), reply.form)
        if self._real is None:
            raise InputError(
                f"{self._path!r} is called in a block that it does not belong to: on the example the forward called "
                "other modules first. A network that leaves layers out for some inputs cannot be cut between them."
            )
        return self._real(*args, **kwargs)


def shell(module: nn.Module, children: dict[str, nn.Module | None], *, keep: set[str], first: bool) -> nn.Module:
    """A module of the same class and settings with other children.

    Args:
        keep: names of its own weights that belong to this block; blanks stand for the others.
        first: whether buffers are the module's own; later blocks get copies.
    """
    made = module.__new__(type(module))
    made.__dict__.update(module.__dict__)
    for registry in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"):
        made.__dict__[registry] = type(module.__dict__[registry])()
    made._modules.update(children)
    for name, parameter in module._parameters.items():
        if parameter is None or name in keep:
            made._parameters[name] = parameter
        else:
            blank = torch.zeros((), dtype=parameter.dtype, device=parameter.device).expand(parameter.shape)
            made.register_buffer(name, blank, persistent=False)
    for name, buffer in module._buffers.items():
        made._buffers[name] = buffer if first or buffer is None else buffer.detach().clone()
        if name in module._non_persistent_buffers_set:
            made._non_persistent_buffers_set.add(name)
    return made


def plain_attributes(module: nn.Module) -> dict[str, Any]:
    """Attributes that are neither modules nor tensors nor hold any."""
    own = set(vars(nn.Module()))
    return {name: value for name, value in vars(module).items() if name not in own and _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple | set):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    bound = isinstance(getattr(value, "__self__", None), nn.Module)
    return not isinstance(value, nn.Module | Tensor) and not bound
