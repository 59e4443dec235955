"""What is kept of a learner: its state_dict as tensors that safetensors can hold.

Weights and buffers are kept as they are. Anything else (what a module's `get_extra_state` gives, a sparse or quantised
tensor) is packed: the bytes that torch.save makes of it, as one tensor. Only what torch.load reads back without running
code may be packed, so that a checkpoint stays data.
"""

import functools
import io
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save
from torch import Tensor, nn

from blocklocal._common.errors import InputError
from blocklocal.block.learner import BlockLearner
from blocklocal.block.shards import gather_full

_PACKED = " (packed)"
_ORDINARY = ("torch.nn.", "torch.fx.", "blocklocal.")  # modules whose state_dict and load_state_dict fit each other


def pack(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """A state_dict as tensors by name, which share its memory.

    Where replicas share parameters, all of them must call this.
    """
    return {_name(name, value): _held(value) for name, value in state.items()}


def unpack(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The inverse of `pack`."""
    packed = {name: tensor for name, tensor in tensors.items() if name.endswith(_PACKED)}
    plain = {name: tensor for name, tensor in tensors.items() if name not in packed}
    return plain | {name.removesuffix(_PACKED): _read(tensor) for name, tensor in packed.items()}


def kinds(state: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Shape and type of what a state_dict holds, packed or not, as `state.json` has them: name → {"shape", "dtype"}.

    Packed values have no shape, because their length may change.
    """
    return {_name(name, value): _kind(_name(name, value), value) for name, value in state.items()}


def _kind(name: str, value: Any) -> dict[str, Any]:
    if name.endswith(_PACKED):
        return {"shape": [], "dtype": "packed"}
    return {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}


def check_savable(learners: Sequence[BlockLearner]) -> None:
    """Raise InputError, before training, where a learner's state could not be saved, or not loaded again."""
    for learner in learners:
        state = learner.state_dict()
        odd = {name: value for name, value in state.items() if not _plain(value)}
        if not odd and all(type(part).__module__.startswith(_ORDINARY) for part in learner.modules()):
            continue  # no code of the user's own runs here, so the weights need not be copied
        for name, value in odd.items():
            try:
                unpack(pack({name: value}))
            except Exception as reason:  # the values are a user's own, and so is what they raise
                raise _unsavable(learner, name, reason) from reason
        try:
            learner.load_state_dict(unpack({name: tensor.clone() for name, tensor in pack(state).items()}))
        except Exception as reason:  # a user's set_extra_state and hooks
            raise InputError(
                f"block {learner.index + 1} of the model could not be loaded from a checkpoint: its load_state_dict "
                f"does not take its state_dict: {' '.join(str(reason).split())}"
            ) from reason


def _unsavable(learner: BlockLearner, name: str, reason: Exception) -> InputError:
    owner, _, leaf = name.rpartition(".")
    kind = type(learner.get_submodule(owner)).__name__ if leaf == "_extra_state" else ""
    given = f", what {kind}.get_extra_state gives," if kind else ""
    return InputError(
        f"block {learner.index + 1} of the model: {name!r}{given} cannot be kept in a checkpoint "
        f"({type(reason).__name__}). A state may hold tensors, numbers, text, and lists and dictionaries of them."
    )


def _name(name: str, value: Any) -> str:
    return name if name.endswith(_PACKED) or _plain(value) else name + _PACKED


def _held(value: Any) -> Tensor:
    if _plain(value):
        return gather_full(value.detach())
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)


def _read(packed: Tensor) -> Any:
    return torch.load(io.BytesIO(packed.cpu().numpy().tobytes()), map_location="cpu", weights_only=True)


def _plain(value: Any) -> bool:
    """Whether safetensors can hold it."""
    if not isinstance(value, Tensor) or value.layout is not torch.strided or value.is_quantized:
        return False
    return _known(value.dtype) and (type(value) in (Tensor, nn.Parameter, nn.Buffer) or hasattr(value, "full_tensor"))


@functools.cache
def _known(dtype: torch.dtype) -> bool:
    try:
        save({"x": torch.empty(0, dtype=dtype)})
    except (KeyError, ValueError, SafetensorError):
        return False
    return True
