"""Watches what PyTorch is asked for while a block learns by feedback alignment.

Where a weight of the block meets data in a product (a linear layer, a convolution, attention, a matrix product), the
error goes back through the weight's own feedback weight. Where it meets data in any other way, either the weight's
value cannot be in the error (it is added, looked up, a gain per unit), or the block is refused by name: no error goes
back through a weight's own values without a word.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from blocklocal._common.errors import InputError
from blocklocal._common.torch_calls import name_of, replaced, tensors_in
from blocklocal.rules.feedback_functions import Fed, FedLinear, autocast, conv2d

# Products that are linear in their weight, and the argument (by position) that is added to them.
PRODUCTS: dict[str, int | None] = {
    "linear": 2, **{f"conv{n}d": 2 for n in (1, 2, 3)}, **{f"conv_transpose{n}d": 2 for n in (1, 2, 3)},
    "bilinear": 3, "matmul": None, "mm": None, "bmm": None, "mv": None, "einsum": None, "inner": None,
    "tensordot": None, "addmm": 0, "addmv": 0, "addbmm": 0, "baddbmm": 0,
}  # fmt: skip

# What passes errors on unchanged, or to some places and not to others, whatever the weight's values are.
UNWEIGHTED = {
    "add", "radd", "iadd", "sub", "subtract", "rsub", "isub", "cat", "concat", "concatenate", "stack", "hstack",
    "vstack", "dstack", "where", "maximum", "minimum", "fmax", "fmin", "clamp", "copy", "setitem", "getitem", "gather",
    "index_select", "take_along_dim", "embedding", "embedding_bag", "masked_fill", "masked_scatter", "scatter",
    "scatter_add", "index_add", "index_copy", "index_fill", "index_put", "slice_scatter", "select_scatter",
    "diagonal_scatter", "expand_as", "view_as", "reshape_as", "type_as", "to", "broadcast_tensors", "pad", "select",
}  # fmt: skip
# A gain of its own for every unit or channel, which feedback alignment leaves alone as it does that of a norm.
NORMS = {"layer_norm", "batch_norm", "group_norm", "instance_norm", "rms_norm", "prelu"}
GAINS = {
    "mul", "rmul", "imul", "multiply", "div", "divide", "rdiv", "idiv", "truediv", "rtruediv", "itruediv",
    "true_divide", "pow", "rpow",
}  # fmt: skip

Names = frozenset[str]


class FeedbackWeights(TorchFunctionMode):
    """Routes the products of a block's weights through their feedback weights, and refuses what it cannot route.

    Args:
        feedback: id of a parameter of the block → its feedback weight, or that of the weight that is computed from it.
    """

    def __init__(self, block: nn.Module, feedback: Mapping[int, Tensor]):
        super().__init__()
        self.block, self.feedback = block, feedback
        self._parameters = dict(block.named_parameters())
        fed = [p for p in self._parameters.values() if id(p) in feedback and feedback[id(p)].shape == p.shape]
        self._memory = {_address(p): p for p in fed}
        # Tensors that are computed from parameters and buffers alone, and the names of those parameters. They are held
        # here, so that no other tensor takes their id.
        self._made: dict[int, tuple[Tensor, Names]] = {id(b): (b, Names()) for b in block.buffers()}
        self._made |= {id(p): (p, Names((name,))) for name, p in self._parameters.items()}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = list(tensors_in((args, kwargs)))
        weights = [t for t in tensors if self._names(t)]
        if all(id(t) in self._made for t in tensors):
            return self._keep(func(*args, **kwargs), Names().union(*(self._names(t) for t in weights)))
        name = name_of(func)
        result = self._mixed(func, name, args, kwargs, weights) if weights else func(*args, **kwargs)
        if "out" in kwargs or name in ("setitem", "copy") or _in_place(func):
            self._made.pop(id(kwargs.get("out", args[0] if args else None)), None)  # it holds data now
        return result

    def _names(self, t: Tensor) -> Names:
        """Names of the parameters that it is computed from; none of data."""
        return self._made[id(t)][1] if id(t) in self._made else Names()

    def _keep(self, result: Any, names: Names) -> Any:
        for t in tensors_in(result):
            self._made[id(t)] = (t, self._names(t) | names)
        return result

    # --- where a weight meets data

    def _mixed(self, func, name: str, args: tuple, kwargs: dict, weights: list[Tensor]) -> Any:
        if func is F.multi_head_attention_forward:
            return self._attention(func, args, kwargs)
        if name in PRODUCTS:
            return self._product(func, name, args, kwargs)
        if name == "scaled_dot_product_attention":  # where a mask, its fourth argument, is added
            mask = kwargs.get("attn_mask", args[3] if len(args) > 3 else None)
            weights = [t for t in weights if t is not mask]
        if not weights:
            return func(*args, **kwargs)
        wide = any(sum(size > 1 for size in t.shape) > 1 for t in weights)
        if name in UNWEIGHTED or name in NORMS or (name in GAINS and not wide):
            return func(*args, **kwargs)
        result = func(*args, **kwargs)
        if any(t.is_floating_point() or t.is_complex() for t in tensors_in(result)):
            raise self._refused(weights, name)
        return result

    def _product(self, func, name: str, args: tuple, kwargs: dict) -> Tensor:
        """A product with its weight's feedback weight; what is added to it is no weight."""
        place = PRODUCTS[name]
        added = [] if place is None else [kwargs.get("input" if place == 0 else "bias"), *args[place : place + 1]]
        tensors = tensors_in((args, kwargs))
        weights = [t for t in tensors if self._names(t) and not any(t is other for other in added)]
        if not weights:
            return func(*args, **kwargs)
        known = self._feedback(weights[0])
        if known is None or len(weights) > 1:
            raise self._refused(weights, name)
        usual = weights[0] is kwargs.get("weight", args[1] if len(args) > 1 else None)
        if func is F.linear and usual:
            return _linear(known, *args, **kwargs)
        if func is torch.conv2d and usual:
            return _conv2d(known, *args, **kwargs)
        return _fed(func, args, kwargs, weights[0], known)

    def _attention(self, func, args: tuple, kwargs: dict) -> tuple[Tensor, Tensor | None]:
        """Multi-head attention: its projections as linear layers, the rest by torch with identities as projections."""
        bound = inspect.signature(func).bind(*args, **kwargs)
        bound.apply_defaults()
        given = bound.arguments
        learned = [t for t in map(given.get, ("query", "key", "value", "bias_k", "bias_v")) if t is not None]
        learned = [t for t in learned if self._names(t)]
        if learned:  # as those of a weight, their values are in the errors of the others
            raise self._refused(learned, func.__name__)
        projected = self._projected(given)
        eye = torch.eye(given["embed_dim_to_check"], dtype=projected[0].dtype, device=projected[0].device)
        out = given["out_proj_weight"], given["out_proj_bias"]
        given |= dict(zip(("query", "key", "value"), projected, strict=True))
        given |= {f"{name}_proj_weight": eye for name in ("q", "k", "v", "out")}
        given |= {"use_separate_proj_weight": True, "in_proj_weight": None, "in_proj_bias": None, "out_proj_bias": None}
        mixed, attention = func(**given)
        return _linear(self._known(out[0], func.__name__), mixed, *out), attention

    def _projected(self, given: Mapping[str, Any]) -> list[Tensor]:
        """Queries, keys and values of multi-head attention."""
        name, sources = "multi_head_attention_forward", [given["query"], given["key"], given["value"]]
        packed, bias = given["in_proj_weight"], given["in_proj_bias"]
        biases = [None] * 3 if bias is None else bias.chunk(3)
        if given["use_separate_proj_weight"]:
            weights = [given[f"{each}_proj_weight"] for each in "qkv"]
            known = [self._known(weight, name) for weight in weights]
        elif sources[0] is sources[1] is sources[2]:
            return list(_linear(self._known(packed, name), sources[0], packed, bias).chunk(3, -1))
        else:
            weights, known = packed.chunk(3), self._known(packed, name).chunk(3)
        return [_linear(*each) for each in zip(known, sources, weights, biases, strict=True)]

    # --- which feedback weight

    def _feedback(self, weight: Tensor) -> Tensor | None:
        """The feedback weight of a parameter, of a view of one, or of what is computed from one alone."""
        parameter = self._memory.get(_address(weight))
        known = None if parameter is None else self.feedback[id(parameter)]
        if parameter is not None and known is not None and known.stride() == parameter.stride():
            if weight is parameter:
                return known
            offset = weight.storage_offset() - parameter.storage_offset() + known.storage_offset()
            return known.as_strided(weight.shape, weight.stride(), offset)
        sources = [id(self._parameters[name]) for name in self._names(weight)]
        found = {id(self.feedback[source]): self.feedback[source] for source in sources if source in self.feedback}
        fitting = [known for known in found.values() if known.numel() == weight.numel()]
        return fitting[0].reshape(weight.shape) if len(fitting) == 1 else None

    def _known(self, weight: Tensor, name: str) -> Tensor:
        known = self._feedback(weight)
        if known is None:
            raise self._refused([weight], name)
        return known

    def _refused(self, weights: list[Tensor], name: str) -> InputError:
        names = sorted(Names().union(*(self._names(t) for t in weights)))
        path, _, own = (names[0] if names else "").rpartition(".")
        module = f"'{path}' ({type(self.block.get_submodule(path)).__name__})" if path else f"the parameter '{own}'"
        return InputError(
            f"feedback-alignment cannot replace the transposed weights of {module}, which are used in {name}(): it can "
            "in linear layers, convolutions, multi-head attention and matrix products with one weight. Use those "
            "there, or another rule."
        )


def _linear(known: Tensor, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    if input.dim() == 1:
        return _linear(known, input.unsqueeze(0), weight, bias).squeeze(0)
    return FedLinear.apply(*autocast(input, weight, bias, known))


def _conv2d(known: Tensor, input: Tensor, weight: Tensor, bias: Tensor | None = None, *options, **named) -> Tensor:
    return conv2d(input, weight, bias, known, *options, **named)


def _fed(func, args: tuple, kwargs: dict, weight: Tensor, known: Tensor) -> Tensor:
    """Any other product: called anew with the tensors that it is given."""
    others = [t for t in tensors_in((args, kwargs)) if t is not weight]

    def call(w: Tensor, *tensors: Tensor) -> Tensor:
        left = iter(tensors)
        new_args, new_kwargs = replaced((args, kwargs), lambda t: w if t is weight else next(left))
        return func(*new_args, **new_kwargs)

    weight_and_others = autocast(weight, known, *others)
    return Fed.apply(call, weight_and_others[1], weight_and_others[0], *weight_and_others[2:])


def _in_place(func: Any) -> bool:
    name = getattr(func, "__name__", "")
    return name.startswith("__i") or (name.endswith("_") and not name.endswith("__"))


def _address(t: Tensor) -> tuple[torch.dtype, int]:
    """Where its memory begins: the same for all views of a tensor."""
    return t.dtype, t.untyped_storage().data_ptr()
