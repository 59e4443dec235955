"""Weights that are drawn later: a network is built without content, and each block gets its content when it is needed.

While a module is built on torch's meta device, its tensors have shapes and no content. `Deferred` writes down what was
done to them meanwhile (`normal_`, `zero_`, …). `content` does it again for the tensors of one block alone. A random
number is drawn from where the generator stood when the ordinary construction would have drawn it, so the weights are
those of the ordinary construction, bit for bit.

Where the construction looks at a value (`item`, a comparison), what that value comes from is done at once, and
forgotten again. What Python or numpy give (`torch.tensor([1.0, 2.0])`) is kept.

The idea is that of torchdistx's deferred initialisation.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_flatten, tree_map

from blocklocal._common.errors import InputError
from blocklocal.streaming.replacing import replace_tensors

Key = int  # of a storage
MOST = 2**30  # bytes that a look at a value may need, or so many times the largest tensor of it:
TIMES = 8
_FROM_PYTHON = (torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor)
_IS_META = Tensor.is_meta.__get__  # type: ignore[attr-defined]
_LIKE = {torch.ops.aten.randn_like.default: "normal_", torch.ops.aten.rand_like.default: "uniform_"}


@dataclass(frozen=True)
class _Call:
    """One operation: `function(*args, **kwargs)` gave `output`. draws: the generator's state before it, if it draws."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any
    reads: frozenset[Key]
    writes: frozenset[Key]
    draws: Tensor | None = None


class Deferred(TorchDispatchMode):
    """Writes down what is done to tensors on the meta device while a module is built in it.

    with torch.device("meta"), Deferred() as made:
        model = build()
    values = made.content(model[0].parameters())
    """

    def __init__(self) -> None:
        super().__init__()
        self._calls: list[_Call] = []
        self._calling = _Calling(self)
        self._scratch = torch.UntypedStorage(0)

    def __enter__(self) -> "Deferred":
        self._calling.__enter__()
        super().__enter__()
        return self

    def __exit__(self, exc_type: Any, exc_val: Any, exc_tb: Any) -> None:
        super().__exit__(exc_type, exc_val, exc_tb)
        self._calling.__exit__(exc_type, exc_val, exc_tb)
        self._scratch = torch.UntypedStorage(0)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        # A parameter may get other memory later (`p.data = …`), so what it is now is written down.
        given_args, given_kwargs = tree_map(_alias, (args, kwargs or {}))
        try:
            output = func(*_shapes(args), **_shapes(kwargs or {}))
        except RuntimeError:
            output = self._by_value(func, given_args, given_kwargs)
        given, made = _meta_keys((given_args, given_kwargs)), _meta_keys(output)
        writes = _mutated(func, args, kwargs or {}) | (made - given)
        if writes:
            draws = torch.Tag.nondeterministic_seeded in func.tags
            again, state = self._passed_over(func, given_args, given_kwargs) if draws else (func, None)
            output_now = tree_map(_alias, output)
            self._calls.append(
                _Call(again, given_args, given_kwargs, output_now, frozenset(given), frozenset(writes), state)
            )
        return output

    def _by_value(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The output of an operation that shapes do not tell (`item`, `nonzero`)."""
        if not _meta_keys((args, kwargs)) or _mutated(func, args, kwargs):
            return func(*_shapes(args), **_shapes(kwargs))  # fails as before
        real_args, real_kwargs = self._real_of((args, kwargs))
        output = func(*real_args, **real_kwargs)
        if kwargs.get("device") == torch.device("cpu"):  # the value was asked for
            return output
        return tree_map(lambda a: _shape_of(a) if isinstance(a, Tensor) else a, output)

    def _passed_over(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Tensor | None]:
        """(what draws the same again from a generator of its own, the state of that generator).

        What the ordinary construction draws here is drawn, and thrown away.
        """
        generator = kwargs.get("generator") or torch.default_generator
        before = generator.get_state()
        written = _mutated(func, args, kwargs)
        emptied = tree_map(lambda a: self._drawn_into(a) if _is_meta(a) and _key(a) in written else a, (args, kwargs))
        real_args, real_kwargs = self._real_of(emptied)
        output = func(*real_args, **real_kwargs)
        again = _with_generator(func)
        if again is not None:
            return again, before
        if written:
            raise InputError(f"the construction draws numbers by {func}, which cannot be done again: build it whole.")
        return (lambda *args, **kwargs: tree_map(_copy, output)), None

    def _drawn_into(self, shape: Tensor) -> Tensor:
        """A tensor of this shape for what is thrown away: always the same memory, so that none is left in pieces."""
        like = torch.empty_like(shape)
        size = like.untyped_storage().nbytes()
        if self._scratch.nbytes() < size:
            self._scratch = torch.UntypedStorage(size)
        empty = torch.empty(0, dtype=shape.dtype, device="cpu")
        return empty.set_(self._scratch, 0, like.shape, like.stride())  # type: ignore[call-overload]

    def _real_of(self, tree: Any) -> Any:
        """With content in the place of shapes."""
        wanted = [leaf for leaf in tree_flatten(tree)[0] if _is_meta(leaf)]
        sizes = {key: size for call in self._needed({_key(t) for t in wanted}) for key, size in _sizes(call)}
        if sum(sizes.values()) > max(MOST, TIMES * max(sizes.values(), default=0)):
            raise InputError(
                "the construction, or the run on the example, looks at a value that most of the network is needed for: "
                "leave that out (item, a comparison, nonzero), or build the network whole."
            )
        values = iter(self.content(wanted))
        return tree_map(lambda a: next(values) if _is_meta(a) else _on_cpu(a), tree)

    def constant(self, value: Tensor) -> Tensor:
        """A tensor without content that stands for this one."""
        kept = value.detach().clone()
        shape = _shape_of(kept)
        writes = frozenset({_key(shape)})
        self._calls.append(_Call(kept.clone, (), {}, _alias(shape), frozenset(), writes))
        return shape.requires_grad_(value.requires_grad)

    def adopt(self, module: nn.Module) -> None:
        """Put what stands for them in the place of a module's tensors that have content (of numpy, or a file)."""

        def constant(value: Tensor) -> Tensor | None:
            return None if is_lazy(value) or value.is_meta else self.constant(value)

        replace_tensors(module, constant)

    def content(self, tensors: Iterable[Tensor]) -> list[Tensor]:
        """The content of tensors that were made in it, on the CPU; two that share memory share it here too.

        Raises:
            InputError: a tensor did not get its content from operations of torch on the meta device.
        """
        wanted = list(tensors)
        storages: dict[Key, torch.UntypedStorage] = {}
        with _disable_current_modes():
            for call in self._needed({_key(t) for t in wanted if _is_meta(t)}):
                _again(call, storages)
            return [_real(tensor, storages) for tensor in wanted]

    def keep(self, tensors: Iterable[Tensor]) -> None:
        """Forget what the content of these tensors does not come from, such as a run of the module on an example."""
        self._calls = list(self._needed({_key(t) for t in tensors if _is_meta(t)}))

    def _needed(self, keys: set[Key]) -> Iterator[_Call]:
        """The calls that the content of these storages comes from, in order."""
        found = []
        for call in reversed(self._calls):
            if call.writes & keys:
                keys = keys | call.reads
                found.append(call)
        return reversed(found)


class _Calling(TorchFunctionMode):
    """Keeps what Python and numpy give, and has `torch.nn.init` draw on the meta device, where it does nothing."""

    def __init__(self, deferred: Deferred):
        super().__init__()
        self.deferred = deferred

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func == _IS_META and sys._getframe(1).f_globals.get("__name__") == "torch.nn.init":
            return False
        given = args[-1] if args else kwargs.get("data", kwargs.get("obj"))
        if func not in _FROM_PYTHON or isinstance(given, Tensor) or not _for_meta(kwargs.get("device")):
            return func(*args, **kwargs)
        if func is Tensor.new_tensor:
            kwargs = {"dtype": args[0].dtype, **kwargs}
        with _disable_current_modes():
            make: Any = torch.tensor if func is Tensor.new_tensor else func
            value = make(given, **{**kwargs, "device": "cpu"})
        return self.deferred.constant(value)


def _for_meta(device: Any) -> bool:
    return device is None or torch.device(device).type == "meta"


def _again(call: _Call, storages: dict[Key, torch.UntypedStorage]) -> None:
    """Do what was done, on the CPU."""
    args, kwargs = tree_map(lambda a: _real(a, storages) if _is_meta(a) else _on_cpu(a), (call.args, call.kwargs))
    if call.draws is not None:
        generator = torch.Generator()
        generator.set_state(call.draws)
        kwargs["generator"] = generator
    made = call.function(*args, **kwargs)
    for shape, value in zip(tree_flatten(call.output)[0], tree_flatten(made)[0], strict=True):
        if _is_meta(shape):
            storages.setdefault(_key(shape), value.untyped_storage())


def _real(tensor: Tensor, storages: dict[Key, torch.UntypedStorage]) -> Tensor:
    """The same view of the storage that stands for this tensor's."""
    if not _is_meta(tensor):
        return tensor
    key = _key(tensor)
    if key not in storages and tensor.numel():
        raise InputError(
            f"the content of a tensor of shape {list(tensor.shape)} is not known without building the whole network: "
            "it comes from Python or a file. Build the network whole, or give its weights."
        )
    real = torch.empty(0, dtype=tensor.dtype)
    storage = storages.setdefault(key, torch.UntypedStorage(0))
    return real.set_(storage, tensor.storage_offset(), tensor.shape, tensor.stride())  # type: ignore[call-overload]


def _with_generator(func: Any) -> Any:
    """The same operation, which takes a generator; None where there is none."""
    if func in _LIKE:
        return lambda like, *, generator, **kwargs: getattr(torch.empty_like(like, **kwargs), _LIKE[func])(
            generator=generator
        )
    wanted = {argument.name for argument in func._schema.arguments} | {"generator"}
    for name in ("", *func.overloadpacket.overloads()):
        other = getattr(func.overloadpacket, name) if name else func
        if {argument.name for argument in other._schema.arguments} == wanted:
            return other
    return None


def _mutated(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> set[Key]:
    """The storages on the meta device that an operation writes into."""
    changed = []
    for k, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            changed.append(args[k] if k < len(args) else kwargs.get(argument.name))
    return _meta_keys(changed)


def _shapes(tree: Any) -> Any:
    """Shapes in the place of tensors with content, where an operation gets both (a single number may stay)."""
    if not _meta_keys(tree):
        return tree
    return tree_map(lambda a: _shape_of(a) if isinstance(a, Tensor) and a.dim() and not a.is_meta else a, tree)


def _shape_of(value: Tensor) -> Tensor:
    with _disable_current_modes():
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")


def _alias(value: Any) -> Any:
    return value.detach() if _is_meta(value) else value


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _sizes(call: _Call) -> list[tuple[Key, int]]:
    leaves = tree_flatten((call.args, call.kwargs, call.output))[0]
    return [(_key(leaf), leaf.untyped_storage().nbytes()) for leaf in leaves if _is_meta(leaf)]


def _meta_keys(tree: Any) -> set[Key]:
    return {_key(leaf) for leaf in tree_flatten(tree)[0] if _is_meta(leaf)}


def _is_meta(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_meta


def _key(tensor: Tensor) -> Key:
    return tensor.untyped_storage()._cdata


def _on_cpu(value: Any) -> Any:
    return torch.device("cpu") if value == torch.device("meta") and isinstance(value, torch.device) else value
