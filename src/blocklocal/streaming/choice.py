"""How many blocks, how long a visit, and how many blocks in memory at a time, for so many bytes of memory."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from blocklocal._common.errors import InputError
from blocklocal._common.limits import in_bytes
from blocklocal.block.factories import OptimizerFactory
from blocklocal.block.optim import Optimizer
from blocklocal.network.network import BlockLocal
from blocklocal.streaming.plan import Plan, plan
from blocklocal.streaming.settings import Medium

VISITS = (64, 32, 16, 8, 4, 2, 1)
ENOUGH = 16  # steps of a visit, below which the messages between blocks rather go to files
FEWEST, MANY = 2, 4096  # blocks

Build = Callable[[int], BlockLocal]


def choose(
    memory: int,
    build: Build,
    x: Tensor,
    optimizer: Optimizer | OptimizerFactory | None = None,
    *,
    blocks: int | None = None,
    visit: int | None = None,
    most: int | None = None,
    longest: int | None = None,
    home: Medium = "files",
    precision: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> Plan:
    """The plan with the fewest blocks that fits; of those, with the longest visit of at most 64 steps.

    As many blocks are in memory at a time as can be, at most 3: so reading and writing are hidden behind computing.
    The messages between blocks lie in memory, unless a visit of 16 steps does not fit then.

    Args:
        memory: bytes that may be used on the device, the process itself (`Plan.process`) among them.
        build: makes the whole network, cut into so many blocks. It is called on torch's meta device, and raises
            InputError for more blocks than the network has pieces.
        x: a batch [B, …] as training will have it.
        optimizer: of every block; default, the network's own.
        blocks, visit, most: what the user has given; None: to be chosen.
        longest: the longest visit that may be chosen, where messages come so many steps late.
        home: where blocks rest: "files", or "ram".
        precision: of the blocks' operations.
        device: where blocks compute.

    Returns:
        The plan. The number of blocks is that of its `blocks`.

    Raises:
        InputError: nothing fits. It says by how much, and what is largest.
    """
    visits = [visit] if visit else [n for n in VISITS if longest is None or n <= longest]
    if visit is None and longest is not None and visits and visits[0] < longest < VISITS[0]:
        visits.insert(0, longest)  # a whole epoch
    planned: dict[int, Plan | None] = {}

    def of(count: int) -> Plan | None:
        """None where the network cannot be cut into so many blocks."""
        if count not in planned:
            try:
                with torch.device("meta"):
                    network = build(count)
            except InputError:
                if count in (FEWEST, blocks):
                    raise
                network = None
            made = (
                None if network is None else plan(network, x, optimizer, home=home, precision=precision, device=device)
            )
            planned[count] = made
        return planned[count]

    for together in [most] if most else [3, 2, 1]:
        found = _fewest(of, blocks, lambda each, n=together: _longest(each, memory, visits, n))
        if found is not None:
            return found
    raise _nothing(memory, [each for each in planned.values() if each], visits)


def _fewest(
    of: Callable[[int], Plan | None], blocks: int | None, fitting: Callable[[Plan], Plan | None]
) -> Plan | None:
    """The fitting plan with the fewest blocks: twice as many each time, then by halves between the last two."""
    low, high, best = (blocks or FEWEST) - 1, blocks or FEWEST, None
    while (made := of(high)) is not None and (best := fitting(made)) is None:
        if blocks or high >= MANY:
            return None
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        made = of(middle)
        fits = None if made is None else fitting(made)
        if fits is not None or made is None:
            best, high = fits or best, middle
        else:
            low = middle
    return best


def _longest(made: Plan, memory: int, visits: Sequence[int], most: int) -> Plan | None:
    """The plan with the longest visit that fits; None where none does."""
    return next((each for each in _ways(made, visits, most) if each.peak + each.process <= memory), None)


def _ways(made: Plan, visits: Sequence[int], most: int) -> Iterator[Plan]:
    """From the best to the smallest."""
    yield from (replace(made, visit=n, most=most, cache="ram") for n in visits if n >= ENOUGH or len(visits) == 1)
    yield from (replace(made, visit=n, most=most, cache="files") for n in visits)


SMALLER = {"readout": "a smaller --readout (0: none)"}
HEAVY = "a smaller embedding or head"


def _nothing(memory: int, plans: list[Plan], visits: Sequence[int]) -> InputError:
    """The error that says by how much the smallest plan is too large, and what is largest in it."""
    ways = [way for made in plans for way in _ways(made, visits, 1)]
    least = min(ways, key=lambda way: way.peak)
    needed, k = least.peak + least.process, least.worst
    block = least.blocks[k]
    part, size = max(block.parts.items(), key=lambda item: item[1])
    remedy = "a smaller batch" if block.step > block.rests else f"{SMALLER.get(part, HEAVY)}, sgd (which keeps less)"
    return InputError(
        f"{in_bytes(memory)} of memory are not enough: {len(least.blocks)} blocks, one in memory at a time, need "
        f"{in_bytes(needed)}, {in_bytes(needed - memory)} more ({in_bytes(least.process)} of it are the process). "
        f"The largest is block {k + 1}{_end(k, len(least.blocks))}: {in_bytes(block.weights)} of weights "
        f"({in_bytes(size)} of them its {part}), {in_bytes(block.states)} of optimiser states, and in a step "
        f"{in_bytes(block.step)}. Give more memory, {remedy}, or a smaller model."
    )


def _end(k: int, count: int) -> str:
    names = {0: ", the first (with the embedding, where there is one)", count - 1: ", the last (with the head)"}
    return names.get(k, "")
