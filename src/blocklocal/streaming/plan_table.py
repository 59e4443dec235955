"""A plan as lines for a terminal of 100 columns."""

from collections.abc import Sequence

from blocklocal._common.limits import in_bytes
from blocklocal.streaming.needs import Footprint
from blocklocal.streaming.pace import Pace
from blocklocal.streaming.peers import Peer, in_memory, peers
from blocklocal.streaming.plan import Plan

BLOCKS = ("block", "weights", "gradients", "states", "kept", "step", "message", "device")
PEERS = ("way to train", "memory", "at home", "moved per step")


def plan_lines(plan: Plan, pace: Pace | None = None) -> list[str]:
    """What each block needs, what the whole run needs, and what other ways to train would need."""
    lines = _table(BLOCKS, [_block_row(plan, run) for run in _alike(plan)])
    lines += ["", *summary_lines(plan, pace), ""]
    return [*lines, *_table(PEERS, [_peer_row(peer) for peer in [_itself(plan), *peers(plan)]])]


def _alike(plan: Plan) -> list[list[Footprint]]:
    """Blocks that need the same, as one row."""
    rows: dict[tuple[int, ...], list[Footprint]] = {}
    for block in plan.blocks:
        needs = (*_sizes(block), plan.computing(block.index), plan.waiting(block.index))
        rows.setdefault(needs, []).append(block)
    return list(rows.values())


def _named(numbers: Sequence[int]) -> str:
    """`3`, `3–9`, or the first, how many more, and the last of those that do not follow each other."""
    first, last = numbers[0], numbers[-1]
    if first == last:
        return f"{first}"
    if last - first == len(numbers) - 1:
        return f"{first}–{last}"
    return f"{first}, {last}" if len(numbers) == 2 else f"{first} … {last} ({len(numbers)})"


def _sizes(block: Footprint) -> tuple[int, ...]:
    return block.weights, block.local.gradients, block.states, block.local.kept, block.step, block.sent


def _block_row(plan: Plan, run: Sequence[Footprint]) -> list[str]:
    first = run[0]
    sizes = [in_bytes(size) for size in (*_sizes(first), plan.computing(first.index) + plan.waiting(first.index))]
    if first.update is None:
        sizes[2] = "unknown"
    return [_named([block.index + 1 for block in run]), *sizes]


def summary_lines(plan: Plan, pace: Pace | None = None) -> list[str]:
    """What the whole run needs."""
    one = "one block" if plan.most == 1 else f"at most {plan.most} blocks in memory"
    cache = "memory" if plan.cache == "ram" else "files"
    home = f"files, {plan.copies} while a chunk is written" if plan.home == "files" else "memory"
    lines = [
        f"{len(plan.blocks)} blocks, visits of {plan.visit} steps, {one}",
        f"messages between blocks: {in_bytes(plan.cache_bytes)} in {cache}",
        f"memory: {in_bytes(plan.peak)} at most (block {plan.worst + 1}), and about {in_bytes(plan.process)} for the "
        "process itself",
        f"at home: {in_bytes(plan.at_home)} ({home}); {in_bytes(plan.moved)} read and written per step",
    ]
    if any(block.update is None for block in plan.blocks):
        lines.append("what the optimiser keeps is not known, and is not counted: it does not step outside a run")
    whole = in_memory(plan).memory
    if whole <= plan.peak:
        lines.append(f"the whole network in memory needs less, {in_bytes(whole)}: leave out --visit and --memory")
    if pace is not None:
        lines.append(f"time: about {pace.step_seconds(plan):.3g} s per step")
    return lines


def _itself(plan: Plan) -> Peer:
    return Peer("block by block (this plan)", plan.peak, plan.at_home, plan.moved)


def _peer_row(peer: Peer) -> list[str]:
    home = in_bytes(peer.home) if peer.home else "–"
    return [peer.name, in_bytes(peer.memory), home, in_bytes(peer.moved) if peer.moved else "–"]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in (head, *rows)
    ]
