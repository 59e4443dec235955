"""Which axis of an activation holds its units: told by the layers that made it, while a batch runs through them.

A convolution or BatchNorm puts its channels at axis 1, a linear layer, LayerNorm, attention or LSTM its units at the
last. From there on the axis is followed through whatever moves axes (transpose, reshape, …) or leaves them alone
(activations, sums, pooling). Where layers disagree, or none of them is known, nothing is told.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from blocklocal._common.message import Given, lead
from blocklocal._common.torch_calls import name_of, replaced, tensors_in

Axes = frozenset[int]  # more than one while a unit's number is spread over several axes (the heads of attention)

CHANNELS = {"batch_norm", "group_norm", "instance_norm"}
LAST = {
    "linear", "bilinear", "embedding", "embedding_bag", "multi_head_attention_forward", "scaled_dot_product_attention",
    "lstm", "gru", "rnn_tanh", "rnn_relu",
}  # fmt: skip
NORMS = {"layer_norm", "rms_norm"}
PRODUCTS = {"matmul", "mm", "bmm"}
MOVES = {
    "view", "reshape", "permute", "transpose", "t", "movedim", "moveaxis", "swapaxes", "swapdims", "flatten",
    "unflatten", "squeeze", "unsqueeze", "getitem", "select", "narrow", "chunk", "split", "tensor_split", "unbind",
    "iter", "get", "expand", "mean", "sum", "amax", "amin", "std", "var", "logsumexp", "norm",
}  # fmt: skip
UNTOLD = {"einsum", "tensordot", "baddbmm", "inner"}


class UnitAxes(TorchFunctionMode):
    """Follows the axes that hold the units of every tensor that is made in it."""

    def __init__(self):
        super().__init__()
        self._known: dict[int, tuple[Tensor, Axes]] = {}  # with the tensor, so that no other one takes its id

    def of(self, t: Tensor) -> int | None:
        """The axis that holds the units: 1, or the last; None where that cannot be told."""
        axes = self._axes(t)
        return min(axes) if axes in ({1}, {t.dim() - 1}) else None

    def _axes(self, t: Tensor) -> Axes:
        return self._known[id(t)][1] if id(t) in self._known else Axes()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = name_of(func)
        given = list(tensors_in((args, kwargs)))
        result = func(*args, **kwargs)
        made = list(tensors_in(result))
        if name in MOVES and given:
            self._move(func, args, kwargs, given[0], made)
        elif made:
            axes = self._of_result(name, args, kwargs, given, made[0])
            self._known[id(made[0])] = (made[0], axes)
        return result

    def _of_result(self, name: str, args: tuple, kwargs: dict, given: list[Tensor], made: Tensor) -> Axes:
        last, first = Axes([made.dim() - 1]), given[0] if given else made
        if name.startswith("conv") and name.endswith("d"):
            return self._consumed(first, Axes([made.dim() - int(name[-2]) - 1]), made)
        if name in CHANNELS:
            return self._consumed(first, Axes([1]), made)
        if name in LAST:
            return self._consumed(first, last, made)
        if name in NORMS:
            over = kwargs.get("normalized_shape", args[1] if len(args) > 1 else ())
            return self._consumed(first, last, made) if len(tuple(over)) == 1 else self._axes(first)
        if name in UNTOLD:
            return Axes()
        if name in PRODUCTS:
            return self._of_product(given, last)
        return self._kept(name, given, made)

    def _consumed(self, x: Tensor, axes: Axes, made: Tensor) -> Axes:
        """The axes that hold the units in the output of a layer that reads all units.

        Its input has them in the same place, unless more is known of it already.
        """
        if not self._axes(x) and x.dim() == made.dim() and x.is_floating_point():
            self._known[id(x)] = (x, axes)
        return axes

    def _of_product(self, given: list[Tensor], last: Axes) -> Axes:
        """x @ W and attention @ values have units last; W @ x has them in the rows, if x has."""
        first, second = given[0], given[1]
        rows = Axes([second.dim() - 2])
        return rows if not self._axes(first) and self._axes(second) == rows else last

    def _kept(self, name: str, given: list[Tensor], made: Tensor) -> Axes:
        """The axes of the result of an operation that leaves the axes alone.

        They are those of its inputs that have as many units as the result, where all such inputs agree.
        """
        found = set()
        for t in given:
            offset = made.dim() - t.dim()
            axes = Axes(axis + offset for axis in self._axes(t))
            fits = all(name.startswith("cat") or made.shape[a] == t.shape[a - offset] for a in axes) and offset >= 0
            if axes and fits:
                found.add(axes)
        return found.pop() if len(found) == 1 else Axes()

    def _move(self, func: Callable, args: tuple, kwargs: dict, x: Tensor, made: list[Tensor]) -> None:
        """For an operation that moves axes: move the numbers of the units with it, and look where they are then."""
        axes = self._axes(x)
        if not axes:
            return
        numbers = _numbers(x, axes)
        moved = replaced((args, kwargs), lambda t: numbers if t is x else t)
        for t, where in zip(made, tensors_in(func(*moved[0], **moved[1])), strict=False):
            varying = Axes(a for a in range(where.dim()) if bool((where != where.narrow(a, 0, 1)).any()))
            self._known[id(t)] = (t, varying if where.shape == t.shape else Axes())


def _numbers(x: Tensor, axes: Axes) -> Tensor:
    """For every value of x the number of its unit, in the shape of x."""
    device = "cpu" if x.is_meta else x.device
    numbers = torch.zeros((), dtype=torch.float64, device=device)
    for axis in sorted(axes):
        each = torch.arange(x.shape[axis], dtype=numbers.dtype, device=device)
        numbers = numbers * len(each) + each.view([-1 if a == axis else 1 for a in range(x.dim())])
    return numbers.expand(x.shape)


@contextmanager
def followed(modules: Sequence[nn.Module], example: Given) -> Generator[list[int | None], None, None]:
    """The unit axes of a batch and of what every module of a chain makes of it; filled when the `with` ends."""
    axes, mode = [], UnitAxes()
    outputs: list[Given] = []
    hooks = [module.register_forward_hook(lambda _, given, made: outputs.append(made)) for module in modules]
    try:
        with mode:
            yield axes
    finally:
        for hook in hooks:
            hook.remove()
    axes += [mode.of(lead(t)) for t in (example, *outputs)]
