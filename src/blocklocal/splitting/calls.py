"""How a network is called with its input, and which tensor of what it gives is the network's output."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from blocklocal._common.errors import InputError
from blocklocal._common.message import call

OUTPUT_FIELD = "logits"


def call_with(model: nn.Module, x: Any, extra: Mapping[str, Any]) -> Any:
    """What the model gives for its input, with further arguments by name that are the same at every call."""
    if not extra:
        return call(model, x)
    if isinstance(x, Mapping):
        return model(**{**extra, **x})
    return model(*x, **extra) if isinstance(x, tuple | list) else model(x, **extra)


def named_inputs(x: Any) -> dict[str, Any]:
    """The tensors of an input by name: the keys of a mapping, the places of a tuple, or "x"."""
    if isinstance(x, Mapping):
        return dict(x)
    return {str(i): t for i, t in enumerate(x)} if isinstance(x, tuple | list) else {"x": x}


def like_inputs(x: Any, values: Mapping[str, Any]) -> Any:
    """Values by name in the form of `x`."""
    if isinstance(x, Mapping):
        return dict(values)
    return tuple(values[str(i)] for i in range(len(x))) if isinstance(x, tuple | list) else values["x"]


def described(x: Any) -> str:
    """What an input is, for a message."""
    named = {name: t for name, t in named_inputs(x).items() if isinstance(t, Tensor)}
    if isinstance(x, Tensor):
        return f"shape {list(x.shape)}, {x.dtype}"
    return ", ".join(f"{name} {list(t.shape)} {t.dtype}" for name, t in named.items())


def one_tensor(output: Any, kind: str) -> Tensor:
    """The output itself, its field `logits`, or the only tensor in it.

    Args:
        kind: the model's name, for the message.

    Raises:
        InputError: there is no tensor, or several and none is called logits.
    """
    if isinstance(output, Tensor):
        return output
    fields = _fields(output)
    if isinstance(fields.get(OUTPUT_FIELD), Tensor):
        return fields[OUTPUT_FIELD]
    found = {name: value for name, value in fields.items() if isinstance(value, Tensor)}
    if len(found) == 1:
        return next(iter(found.values()))
    gives = f"{type(output).__name__} with the tensors {', '.join(found)}" if found else f"{type(output).__name__}"
    raise InputError(
        f"{kind} gives {gives}: its output must be one tensor, or have a field {OUTPUT_FIELD}. Take the model with the "
        "head for your task, or wrap it in a module that returns the one tensor."
    )


def _fields(output: Any) -> dict[str, Any]:
    if isinstance(output, Mapping):
        return dict(output)
    if hasattr(output, "_asdict"):
        return output._asdict()
    if hasattr(output, "__dataclass_fields__"):
        return dict(vars(output))
    if isinstance(output, tuple | list):
        return {f"[{i}]": value for i, value in enumerate(pytree.tree_leaves(output))}
    return {}
