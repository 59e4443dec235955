"""The state of a user's loader as JSON, and back: numbers, texts, lists, dictionaries, tensors and bytes.

Nothing is pickled: a state that holds anything else cannot be kept.
"""

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from blocklocal._common.errors import InputError


def to_plain(value: Any) -> Any:
    """What JSON can hold of a state.

    Raises:
        TypeError: it holds something else.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list):
        return [to_plain(each) for each in value]
    if isinstance(value, tuple):
        return {"tuple": [to_plain(each) for each in value]}
    if isinstance(value, Mapping):
        return {"items": [[to_plain(key), to_plain(each)] for key, each in value.items()]}
    if isinstance(value, bytes | bytearray):
        return {"bytes": base64.b64encode(value).decode()}
    if isinstance(value, Tensor):
        return {"tensor": _numbers(value.detach().cpu().numpy())}
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biuf":
        return {"array": _numbers(np.asarray(value))}
    raise TypeError(f"a {type(value).__name__}")


def from_plain(value: Any) -> Any:
    """The inverse of `to_plain`.

    Raises:
        InputError: it is nothing that `to_plain` makes.
    """
    try:
        return _restored(value)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"the loader's state in the checkpoint is damaged ({error}): give an older one.") from error


def _restored(value: Any) -> Any:
    if isinstance(value, list):
        return [_restored(each) for each in value]
    if not isinstance(value, dict):
        return value
    ((kind, held),) = value.items()
    if kind == "tuple":
        return tuple(_restored(each) for each in held)
    if kind == "items":
        return {_restored(key): _restored(each) for key, each in held}
    if kind == "bytes":
        return base64.b64decode(held)
    array = np.frombuffer(base64.b64decode(held["data"]), np.dtype(held["dtype"])).reshape(held["shape"]).copy()
    return {"tensor": torch.from_numpy, "array": np.asarray}[kind](array)


def _numbers(array: np.ndarray) -> dict[str, Any]:
    data = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
    return {"dtype": array.dtype.str, "shape": list(array.shape), "data": data}
