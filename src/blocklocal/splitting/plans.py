"""The ways to cut a network, in the order in which they are tried."""

from collections.abc import Callable, Collection, Sequence
from difflib import get_close_matches
from typing import TypeVar

from torch import Tensor, nn

from blocklocal._common.errors import InputError, unknown
from blocklocal._common.message import Input
from blocklocal.adapters import usage
from blocklocal.splitting.chains import Chain, flat_layers, is_sequential, piece_starts
from blocklocal.splitting.graphs import TracedNetwork
from blocklocal.splitting.running import RunningNetwork
from blocklocal.splitting.tracing import trace

Plan = Chain | TracedNetwork | RunningNetwork
T = TypeVar("T")


def plans(
    model: nn.Module,
    at: Sequence[str] | None,
    example: Input | None,
    *,
    leaf: Sequence[str | type[nn.Module]] = (),
    carry: bool = False,
) -> list[Callable[[], Plan]]:
    """The simplest first. Each is made when it is called, and may raise InputError then.

    Args:
        at: names that the plan must know.
    """
    chain = _chain(model)
    if at is not None:
        _check_known(model, chain, at)
    if chain is not None and all(chain.locate(name) is not None for name in at or ()):
        return [lambda: chain]
    known = usage(model)
    sample, ways = known.example if example is None else example, list[Callable[[], Plan]]()
    if not carry and known.traceable and (sample is None or isinstance(sample, Tensor)):
        ways.append(lambda: TracedNetwork(model, trace(model, _leaves(model, leaf))))
    if sample is not None:
        ways.append(lambda: RunningNetwork(model, sample, known.extra, carry=carry))
    if not ways:
        raise InputError(f"cutting {type(model).__name__} with carry=True takes an example: give example=, a batch.")
    return ways


def first_that_serves(ways: Sequence[Callable[[], Plan]], choose: Callable[[Plan], T]) -> tuple[Plan, T]:
    """The first plan by which the network can be cut as wanted, and where.

    Raises:
        InputError: none can. Of several reasons the first where that way could be gone at all, else the last.
    """
    gone, refused = list[InputError](), list[InputError]()
    for way in ways:
        try:
            plan = way()
        except InputError as reason:
            refused.append(reason)
            continue
        try:
            return plan, choose(plan)
        except InputError as reason:
            gone.append(reason)
    raise gone[0] if gone else refused[-1]


def _chain(model: nn.Module) -> Chain | None:
    """The model as layers in order, where it says so itself."""
    if callable(getattr(model, "units", None)):
        layers = _checked_pieces(model)
        return Chain(layers, range(len(layers)))
    if not is_sequential(model):
        return None
    layers = list(flat_layers(model))
    if not layers:
        raise InputError("the nn.Sequential is empty: there is nothing to split.")
    return Chain(layers, piece_starts(layers))


def _check_known(model: nn.Module, chain: Chain | None, at: Sequence[str]) -> None:
    known = {name for name, _ in model.named_modules(remove_duplicate=False) if name}
    if chain is not None:
        known.update(name for name, _ in chain.layers)
    for name in at:
        if name not in known:
            raise _unknown_module(name, known)


def _leaves(model: nn.Module, leaf: Sequence[str | type[nn.Module]]) -> dict[str, str]:
    """The paths of the modules that the user names or whose class they name, with the reason why they stay whole."""
    named = dict(model.named_modules(remove_duplicate=False))
    found = dict[str, str]()
    for each in leaf:
        paths = [each] if isinstance(each, str) else [name for name, m in named.items() if name and isinstance(m, each)]
        if not paths or paths[0] not in named:
            name = each if isinstance(each, str) else each.__name__
            raise unknown("leaf", name, {*named, *(type(m).__name__ for m in named.values())} - {""})
        found.update(dict.fromkeys(paths, "leaf= names it"))
    return found


def _checked_pieces(model: nn.Module) -> list[tuple[str, nn.Module]]:
    pieces = list(model.units())  # type: ignore[operator]
    if not pieces:
        raise InputError(f"{type(model).__name__}.units() is empty: it must list the (name, module) pairs of forward.")
    names = [name for name, _ in pieces]
    if len(set(names)) < len(names):
        raise InputError(f"{type(model).__name__}.units() gives a name twice: {', '.join(names)}.")
    held = {id(p) for _, piece in pieces for p in piece.parameters()}
    lost = [name for name, p in model.named_parameters() if id(p) not in held]
    if lost:
        raise InputError(f"{type(model).__name__}.units() leaves out {', '.join(lost)}: pieces must equal forward.")
    return pieces


def _unknown_module(name: str, known: Collection[str]) -> InputError:
    """Names the nearest, and of a large network the outer modules only."""
    outer = {module for module in known if module.count(".") < 1}
    return unknown("module to cut at", name, outer.union(get_close_matches(name, known, n=1, cutoff=0.4)))
