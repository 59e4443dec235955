"""Cut a network into blocks: by number, by cost, or at named modules."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, pairwise

from torch import nn
from torch.nn.parameter import is_lazy

from blocklocal._common.choices import BalanceName
from blocklocal._common.errors import InputError, unknown
from blocklocal._common.message import Input, as_input
from blocklocal._common.ranges import FROM_ONE, check_range
from blocklocal.splitting.agreement import check_agreement
from blocklocal.splitting.copying import copy_in_mode
from blocklocal.splitting.costs import COSTS, piece_costs
from blocklocal.splitting.graphs import TracedNetwork
from blocklocal.splitting.partition import partition
from blocklocal.splitting.plans import Plan, first_that_serves, plans
from blocklocal.splitting.running import RunningNetwork
from blocklocal.splitting.suitable import check_module, check_unshared


@dataclass
class Split:
    """A network and the blocks it was cut into.

    Attributes:
        model: the user's module, its weights untouched.
        blocks: modules that share the user's submodules; applied in order they equal `model.forward`. Their mode is
            their own: call `.train()` and `.eval()` on them.
        names: the first and last piece of each block, for people to read.
        after_activation: for each cut, whether the value that crosses has passed an activation already. Such a value
            is no natural parameter; of the rectified family only the second-order evidence is defined on it
            (method §1). Always False for cuts by number or cost of networks with `units()`.
        starts: the positions where blocks start, for `split(model, starts=...)`: the same cut of the same
            architecture again, without a measurement.
    """

    model: nn.Module
    blocks: list[nn.Module]
    names: list[str]
    after_activation: list[bool]
    starts: list[int]

    def to_plain(self) -> nn.Module:
        """The user's module again, with the present weights: a copy in eval mode, ready for export.

        What cannot be copied, such as a lock, is held by the copy too.
        """
        return copy_in_mode(self.model, training=False)

    def check(self, example: Input) -> list[nn.Parameter]:
        """Compare the blocks in order with the model, on two samples of `example`, [B, …].

        Returns:
            The parameters that get no gradient (used under no_grad, or not at all).

        Raises:
            InputError: the two differ.
        """
        return check_agreement(self.model, self.blocks, example)


def split(
    model: nn.Module,
    blocks: int | None = None,
    *,
    at: Sequence[str] | None = None,
    balance: BalanceName = "count",
    example: Input | None = None,
    starts: Sequence[int] | None = None,
    leaf: Sequence[str | type[nn.Module]] = (),
    carry: bool = False,
) -> Split:
    """Cut `model` into blocks.

    Give either `blocks`, or `at`, or `starts`. Lazy layers get their weights when a `BlockLocal` sees its example or
    first batch, from its seed; run the model on a batch before, to draw them yourself.

    Args:
        model: a module with `units()` (every model of this library), an nn.Sequential, any module that torch.fx can
            trace, or, with an example, any module that is a chain at heart: a stem, layers in a list, a head. Pieces of
            nn.Sequential and of a trace begin with an activation, so that cuts by number or cost fall before it.
        blocks: how many.
        at: the names of the pieces or submodules with which blocks 2, 3, ... start.
        balance: "count" gives every block as many pieces as possible alike; "time", "flops" and "bytes" measure each
            piece on `example` (see `piece_costs`) and make the most expensive block as cheap as possible.
        example: a training batch, [B, ...], or a tuple or mapping of tensors, as the model takes it: for a measured
            balance, to cut by running where tracing fails, and to see that the blocks in order equal the model on it
            (`BlockLocal` looks at that too, when it knows an example). Known by itself for models of transformers,
            timm and torchvision.
        starts: `Split.starts` of an earlier cut by number or cost.
        leaf: names or classes of modules that are never cut inside, and run as they are.
        carry: cut also where several values cross, such as the skip connections of a U-Net: a block then gives a
            `Message` with all of them.

    Raises:
        InputError: a name is unknown (the message gives the nearest), there are more blocks than pieces, a cut goes
            through a skip connection, two blocks would share weights, or the blocks would do something else than the
            model.
    """
    check_module(model)
    example = as_input(example)
    if starts is None:
        _check_request(blocks, at, balance, example)
    plan, starts = first_that_serves(
        plans(model, at, example, leaf=leaf, carry=carry),
        lambda plan: _starts(plan, model, blocks, at, balance, example, starts),
    )
    edges = list(pairwise([*starts, plan.length]))
    parts = [plan.build(start, stop) for start, stop in edges]
    for part in parts:
        part.training = model.training  # of the new container alone: .train() would reach the user's modules
    names = [plan.label(start, stop) for start, stop in edges]
    check_unshared(model, parts)
    _check_weights(model, parts, names)
    found = Split(
        model=model,
        blocks=parts,
        names=names,
        after_activation=[plan.after_activation(start) for start in starts[1:]],
        starts=list(starts),
    )
    if example is not None and not any(is_lazy(p) for p in chain(model.parameters(), model.buffers())):
        found.check(example)
    return found


def _starts(
    plan: Plan,
    model: nn.Module,
    blocks: int | None,
    at: Sequence[str] | None,
    balance: BalanceName,
    example: Input | None,
    starts: Sequence[int] | None,
) -> Sequence[int]:
    if starts is not None:
        _check_starts(starts, plan)
        return starts
    return _named_starts(plan, model, at) if at is not None else _even_starts(plan, blocks or 1, balance, example)


def _check_starts(starts: Sequence[int], plan: Plan) -> None:
    known = set(plan.piece_starts)
    if isinstance(plan, RunningNetwork):
        known.update(plan.all_starts)
    if not starts or starts[0] != 0 or any(a >= b for a, b in pairwise(starts)) or not known.issuperset(starts):
        raise InputError(
            f"starts {list(starts)} are not those of a cut of this network, whose pieces start at {sorted(known)}: "
            "give `Split.starts` of the same architecture, or blocks=."
        )


def _check_request(blocks: int | None, at: Sequence[str] | None, balance: BalanceName, example: Input | None) -> None:
    if (blocks is None) == (at is None):
        raise InputError(f"give either blocks (how many) or at (names), not blocks={blocks!r} and at={at!r}.")
    if blocks is not None:
        check_range("blocks", blocks, FROM_ONE)
    if at is not None and (isinstance(at, str) or not all(isinstance(name, str) for name in at)):
        raise InputError(f"at must be a list of module names, not {at!r}.")
    if balance not in ("count", *COSTS):
        raise unknown("balance", balance, ("count", *COSTS))
    if balance != "count" and at is not None:
        raise InputError(f"balance={balance!r} chooses the cuts itself: give blocks=, not at=.")
    if balance != "count" and example is None:
        raise InputError(f"balance={balance!r} is measured: give example=, a training batch.")


def _named_starts(plan: Plan, model: nn.Module, at: Sequence[str]) -> list[int]:
    positions: dict[int, str] = {}
    for name in at:
        position = plan.locate(name)
        assert position is not None  # _plan has chosen a plan that knows every name
        if position == 0:
            raise InputError(f"{name!r} starts the network: at names the modules with which blocks 2, 3, ... start.")
        if position in positions:
            raise InputError(f"{positions[position]!r} and {name!r} in at are the same place in the network.")
        positions[position] = name
    return [0, *sorted(positions)]


def _even_starts(plan: Plan, blocks: int, balance: BalanceName, example: Input | None) -> list[int]:
    starts = plan.piece_starts
    if blocks > len(starts) and isinstance(plan, RunningNetwork):
        starts = plan.all_starts
    edges, count = [*starts, plan.length], len(starts)
    if blocks > count:
        raise InputError(
            f"{blocks} blocks were asked for, but the network has {count} pieces that may be cut apart: "
            f"ask for at most {count}, or divide it more finely.{_about(plan)}"
        )
    costs: list[float] = [1.0] * count
    if balance != "count" and example is not None:
        costs = piece_costs([plan.build(a, b) for a, b in pairwise(edges)], example, balance)
    chosen = [0]
    for size in partition(costs, blocks)[:-1]:
        chosen.append(chosen[-1] + size)
    return [edges[i] for i in chosen]


def _about(plan: Plan) -> str:
    """Why some of its modules are one piece each, or why a place cannot be cut at."""
    if isinstance(plan, RunningNetwork):
        return plan.about()
    opaque = plan.opaque if isinstance(plan, TracedNetwork) else {}
    return "".join(f" {name!r} is one piece: {reason}." for name, reason in list(opaque.items())[:3])


def _check_weights(model: nn.Module, parts: Sequence[nn.Module], names: Sequence[str]) -> None:
    """A block without weights has nothing to learn."""
    empty = [name for name, part in zip(names, parts, strict=True) if not any(True for _ in part.parameters())]
    if empty and any(True for _ in model.parameters()):
        raise InputError(f"the block {empty[0]!r} would hold no weights: move a cut so that every block learns.")
