"""What an operation of a trace does, as far as cutting needs to know."""

from torch import nn

from blocklocal.splitting.tracing import Operation

ACTIVATION_NAMES = frozenset(
    "relu relu_ relu6 leaky_relu elu selu celu gelu silu mish sigmoid tanh softplus hardswish".split()  # noqa: SIM905
)
WEIGHTED = frozenset({"linear", "conv1d", "conv2d", "conv3d", "matmul", "bmm", "einsum", "embedding"})
ADDITIONS = frozenset({"add", "add_", "iadd"})
VIEWS = frozenset(
    {"flatten", "view", "reshape", "dropout", "permute", "transpose", "squeeze", "unsqueeze", "contiguous"}
)
POOLS = frozenset({"max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d", "boolean_dispatch"})
_IN_PLACE_OPERATORS = frozenset(
    {"iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "iand", "ior", "ixor"}
)


def name_of(op: Operation) -> str:
    """The plain name of the function or method that is called; empty for modules."""
    target = op.node.target
    if op.node.op == "call_module":
        return ""
    return target if isinstance(target, str) else getattr(target, "__name__", "")


def is_in_place(op: Operation, module: nn.Module | None) -> bool:
    """Whether the operation may change its input; `module` is the one that is called, if one is."""
    if module is not None:
        return any(getattr(part, "inplace", False) for part in module.modules())
    name = name_of(op)
    operator = getattr(op.node.target, "__module__", "") == "_operator" and name in _IN_PLACE_OPERATORS
    flagged = any(value is True for value in (*op.args, op.kwargs.get("inplace")))  # F.relu(x, True)
    return operator or flagged or (name.endswith("_") and not name.endswith("__"))
