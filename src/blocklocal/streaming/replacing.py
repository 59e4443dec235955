"""Other tensors in the place of a module's own."""

from collections.abc import Callable

from torch import Tensor, nn


def replace_tensors(module: nn.Module, other: Callable[[Tensor], Tensor | None]) -> None:
    """Replace parameters, buffers and plain attributes that are tensors; what was one tensor stays one.

    Args:
        module: it is changed. Parameters stay parameters.
        other: gives the tensor that takes the place of one, or None where it stays.
    """
    done: dict[int, tuple[Tensor, Tensor]] = {}  # with the old one, whose id must not be given to another meanwhile
    for part in module.modules():
        for held in (part._parameters, part._buffers, vars(part)):
            for name, old in list(held.items()):
                if not isinstance(old, Tensor):
                    continue
                if id(old) not in done:
                    new = other(old)
                    if new is None:
                        continue
                    done[id(old)] = old, _like(old, new)
                held[name] = done[id(old)][1]  # type: ignore[index]


def _like(old: Tensor, new: Tensor) -> Tensor:
    return nn.Parameter(new, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else new
