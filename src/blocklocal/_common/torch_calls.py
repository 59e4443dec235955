"""What a `TorchFunctionMode` is given: the name of a call, and the tensors in its nested arguments."""

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor


def name_of(func: Any) -> str:
    """add of add, add_, __add__, __iadd__ stays iadd; mm of torch.ops.aten.mm.default."""
    return getattr(func, "__name__", str(func)).split(".")[0].strip("_")


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors of nested arguments, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for each in value:
            yield from tensors_in(each)
    elif isinstance(value, dict):
        yield from tensors_in(tuple(value.values()))


def replaced(value: Any, new: Callable[[Tensor], Tensor]) -> Any:
    """Nested arguments with other tensors, in the order of `tensors_in`."""
    if isinstance(value, Tensor):
        return new(value)
    if isinstance(value, list | tuple):
        parts = [replaced(each, new) for each in value]
        return value._make(parts) if hasattr(value, "_make") else type(value)(parts)  # a named tuple takes them apart
    if isinstance(value, dict):
        return {key: replaced(each, new) for key, each in value.items()}
    return value
