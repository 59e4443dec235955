"""Numbers that a forward reads off the shape of a tensor, such as x.size(0): a block reads them again for itself.

A number is no message, so it must not cross a cut. It need not: it is read again, in the block that uses it, off a
tensor that is there. The size of the batch is the same for every tensor whose first dimension is the batch.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import fx, nn

from blocklocal.splitting.layers import ACTIVATIONS, NORMS, PASSIVE
from blocklocal.splitting.operations import ACTIVATION_NAMES, ADDITIONS, POOLS, name_of
from blocklocal.splitting.tracing import Operation

_READS = frozenset({"size", "dim", "ndimension", "numel", "nelement", "stride", "is_floating_point", "get_device"})
_ATTRIBUTES = frozenset({"shape", "ndim", "dtype", "device", "is_cuda", "layout"})
_ARITHMETIC = frozenset({"_operator", "math", "builtins"})
_KEEPING_LAYERS = (
    *ACTIVATIONS, *NORMS, *PASSIVE, nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d,
    nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Upsample, nn.PixelShuffle, nn.Softmax, nn.LogSoftmax, nn.LPPool2d,
)  # fmt: skip
_KEEPING = frozenset(
    "linear conv1d conv2d conv3d conv_transpose2d batch_norm layer_norm group_norm instance_norm rms_norm dropout "  # noqa: SIM905
    "dropout1d dropout2d clone contiguous detach float half double to softmax log_softmax interpolate embedding "
    "normalize scaled_dot_product_attention neg exp log sqrt abs clamp pow square".split()
)
_COMBINING = ADDITIONS | frozenset({"sub", "mul", "truediv", "isub", "imul", "div", "maximum", "minimum"})
_BEHIND_FIRST = frozenset({"flatten", "transpose", "unsqueeze", "squeeze", "mean", "sum", "amax", "amin", "cat"})


class Sizes:
    """The numbers of a trace. `modules` by name, as its operations call them."""

    def __init__(self, operations: Sequence[Operation], source: fx.Node, modules: Mapping[str, nn.Module]):
        self.modules = modules
        self.numbers: dict[fx.Node, Operation] = {}
        self._batch = {source: source}  # of every tensor, the earliest one with the same first dimension
        for op in operations:
            if self._is_number(op):
                self.numbers[op.node] = op
            else:
                self._batch[op.node] = self._batch.get(self._keeps(op), op.node)

    def reads(self, number: fx.Node) -> Iterator[tuple[fx.Node, str]]:
        """The tensors that a number is read off, and what is read of each: "batch", "device", or another "size"."""
        op = self.numbers[number]
        tensor = self.batch_read(number)
        if tensor is not None:
            yield tensor, "batch"
            return
        for node in op.inputs:
            if node in self.numbers:
                yield from self.reads(node)
            else:
                yield node, "device" if op.args[1:] == ("device",) else "size"

    def batch_read(self, number: fx.Node) -> fx.Node | None:
        """The tensor whose first dimension this number is: x.size(0) or x.shape[0]."""
        op = self.numbers[number]
        if name_of(op) == "size" and (op.args[1:] == (0,) or op.kwargs.get("dim") == 0):
            return op.inputs[0]
        if name_of(op) != "getitem" or op.args[1:] != (0,) or op.args[0] not in self.numbers:
            return None
        shape = self.numbers[op.args[0]]
        whole = name_of(shape) == "size" and len(shape.args) == 1 and not shape.kwargs
        return shape.inputs[0] if whole or shape.args[1:] == ("shape",) else None

    def readable(self, tensor: fx.Node, what: str, given: fx.Node) -> bool:
        """Whether it can be read off `given` instead."""
        same_batch = what == "batch" and self._batch.get(tensor) is self._batch.get(given)
        return tensor is given or what == "device" or same_batch

    def _is_number(self, op: Operation) -> bool:
        if not op.inputs:
            return False
        of_numbers = all(node in self.numbers for node in op.inputs)
        if op.node.op == "call_method":
            return str(op.node.target) in _READS and op.args[0] is op.inputs[0]
        if op.node.op != "call_function":
            return False
        if name_of(op) == "getattr" and op.args[1] in _ATTRIBUTES:
            return True
        return of_numbers and getattr(op.node.target, "__module__", "") in _ARITHMETIC

    def _keeps(self, op: Operation) -> Any:
        """The input whose first dimension the result of an operation has too; None where that is not sure."""
        tensors, name = [node for node in op.inputs if node not in self.numbers], name_of(op)
        if name in ("view", "reshape", "expand"):
            size = op.args[1][0] if len(op.args) == 2 and isinstance(op.args[1], (tuple, list)) else op.args[1:2][0]
            return self.batch_read(size) if isinstance(size, fx.Node) and size in self.numbers else None
        if not tensors:
            return None
        first = tensors[0]
        if op.node.op == "call_module":
            return first if len(tensors) == 1 and _layer_keeps(self.modules[str(op.node.target)]) else None
        if name in _COMBINING:
            return first if len({self._batch.get(node) for node in tensors}) == 1 else None
        if name in ("permute", "getitem"):
            index = op.args[1] if isinstance(op.args[1], (tuple, list)) else op.args[1:]
            return first if index and (index[0] == slice(None) if name == "getitem" else index[0] == 0) else None
        if name in _BEHIND_FIRST:
            if name == "cat":  # of tensors with as many samples each
                first = next((node for node in tensors if self._batch[node] is not node), first)
            return first if _behind_first(op) else None
        return first if name in ACTIVATION_NAMES | POOLS | _KEEPING else None


def _layer_keeps(module: nn.Module) -> bool:
    if isinstance(module, nn.Flatten):
        return module.start_dim > 0
    if isinstance(module, nn.Unflatten):
        return isinstance(module.dim, int) and module.dim > 0
    return isinstance(module, _KEEPING_LAYERS)


def _behind_first(op: Operation) -> bool:
    """Whether an operation that names dimensions names later ones than the first."""
    dims: list[Any] = [*op.args[1:2], *(op.kwargs.get(key) for key in ("dim", "start_dim", "axis"))]
    named = [d for dim in dims if dim is not None for d in (dim if isinstance(dim, (tuple, list)) else [dim])]
    if name_of(op) == "transpose":
        named = [*op.args[1:3], *op.kwargs.values()]
    return bool(named) and all(isinstance(d, int) and (d > 0 or d == -1) for d in named)
