"""An optimiser's state in two parts: what it keeps of every weight (its moments), and the rest.

Moments are as large as the weights. They go into a file of tensors, which is written from where they are and read into
memory of their own. What `torch.save` writes is mapped when it is large, and every page that the next step changes is
copied then, one by one.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from blocklocal.training.tensor_file import NAMES

MOMENTS = "moments"  # in the rest: the names of the tensors that lie elsewhere


def divide(saved: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(the rest of a saved optimiser and schedule, its moments by name)."""
    state = (saved["optimizer"] or {}).get("state", {})
    moments = {
        f"{index}/{name}": value
        for index, kept in state.items()
        if isinstance(index, int) and isinstance(kept, dict)
        for name, value in kept.items()
        if isinstance(name, str) and _fits(value)
    }
    if not moments:
        return saved, {}
    rest = {
        index: {name: None if f"{index}/{name}" in moments else value for name, value in kept.items()}
        if isinstance(kept, dict)
        else kept
        for index, kept in state.items()
    }
    return {**saved, "optimizer": {**saved["optimizer"], "state": rest}, MOMENTS: sorted(moments)}, moments


def join(rest: dict[str, Any], moments: Mapping[str, Tensor]) -> dict[str, Any]:
    """The inverse of `divide`; `rest` is used up.

    Raises:
        ValueError: the two do not belong together.
    """
    named = rest.pop(MOMENTS)
    if not isinstance(named, list) or sorted(map(str, named)) != sorted(moments):
        raise ValueError("its moments are not those that it names")
    for place, tensor in moments.items():
        index, _, name = place.partition("/")
        try:
            kept = rest["optimizer"]["state"][int(index)]
            empty = kept[name] is None
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"it has no place for {place!r}") from error
        if not empty:
            raise ValueError(f"{place!r} is there twice")
        kept[name] = tensor
    return rest


def _fits(value: Any) -> bool:
    """Whether a file of tensors gives back the same: a plain tensor in rows, and no part of a larger one."""
    if type(value) is not Tensor or value.is_sparse or value.is_quantized or value.requires_grad:
        return False
    whole = value.untyped_storage().nbytes() == value.numel() * value.element_size()
    return value.dim() > 0 and value.dtype in NAMES and value.is_contiguous() and whole
