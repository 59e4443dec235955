"""What each of several processes will need that stream their own blocks, and whether there is room for all of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from blocklocal._common.errors import InputError
from blocklocal._common.limits import in_bytes
from blocklocal.streaming.homes import free_on_disk
from blocklocal.streaming.plan import Plan


@dataclass(frozen=True)
class Share:
    """The blocks of one process.

    Attributes:
        first: the first of them, counted from 0.
        plan: of these blocks alone.
    """

    first: int
    plan: Plan

    @property
    def blocks(self) -> str:
        """`block 3`, `blocks 1–2`; counted from 1."""
        last = self.first + len(self.plan.blocks)
        return f"block {last}" if last == self.first + 1 else f"blocks {self.first + 1}–{last}"


def shares(plan: Plan, sizes: Sequence[int]) -> list[Share]:
    """What every process needs.

    Args:
        plan: of the whole network in one process.
        sizes: number of blocks of every process.
    """
    found, first = [], 0
    for size in sizes:
        blocks = plan.blocks[first : first + size]
        received, sent = blocks[0].received * (first > 0), blocks[-1].sent * (first + size < len(plan.blocks))
        needs = replace(plan.needs, blocks=blocks)
        own = replace(plan, needs=needs, links=plan.visit * (received + sent), keep=1)  # the other copies are the run's
        found.append(Share(first, own))
        first += size
    return found


def share_lines(given: Sequence[Share]) -> list[str]:
    """What the first lines of a run say of its processes."""
    plan = given[0].plan
    most = "one block" if plan.most == 1 else f"at most {plan.most} blocks in memory"
    lines = [f"visits of {plan.visit} steps, {most} of each process"]
    lines += [
        f"process {rank}, {share.blocks}: memory {in_bytes(share.plan.peak)} at most (block "
        f"{share.first + share.plan.worst + 1}), and about {in_bytes(share.plan.process)} for the process itself"
        for rank, share in enumerate(given)
    ]
    home = "files" if plan.home == "files" else "memory"
    resting, moved = (sum(getattr(each.plan, name) for each in given) for name in ("at_home", "moved"))
    return [
        *lines,
        f"at home: {in_bytes(resting)} ({home}); {in_bytes(moved)} read and written per step, by all together",
    ]


def check_memory_of(given: Sequence[Share], free: int | None) -> None:
    """Refuse processes that do not fit beside each other.

    Args:
        given: those that share one memory. They run, so what a process itself takes is no longer free.
        free: bytes; None: not known.

    Raises:
        InputError: with what each needs.
    """
    needed = sum(share.plan.peak for share in given)
    if free is not None and needed > free:
        each = ", ".join(f"{share.blocks} {in_bytes(share.plan.peak)}" for share in given)
        raise InputError(
            f"{len(given)} processes with one block at a time need {in_bytes(needed)} of memory ({each}), and "
            f"{in_bytes(free)} are free: give fewer --processes, fewer --blocks-in-memory, a smaller --visit, more "
            "--blocks, or a smaller --batch-size."
        )


def check_disk_of(given: Sequence[Share], checkpoints: int, folder: Path, store: Path) -> None:
    """Refuse processes whose files do not fit.

    Args:
        given: all that write to this disk.
        checkpoints: bytes of the run's own, all copies.
        folder: the run's.
        store: where the blocks of these processes rest meanwhile.

    Raises:
        InputError: with what is needed where.
    """
    resting = sum(share.plan.on_disk for share in given)
    parts = [(store, "blocks that rest, and messages, of all processes", resting)]
    parts += [(folder, "the run's checkpoints", checkpoints)]
    for place in {_disk(where): where for where, _, _ in parts}.values():
        here = [(name, size) for where, name, size in parts if _disk(where) == _disk(place) and size]
        needed, free = sum(size for _, size in here), free_on_disk(place)
        if needed > free:
            named = ", ".join(f"{name} {in_bytes(size)}" for name, size in here)
            raise InputError(
                f"the files of this run need {in_bytes(needed)} at {place} ({named}), and {in_bytes(free)} are free "
                "there: free some space, or give a --store on another disk."
            )


def _disk(place: Path) -> int:
    """Which disk a folder is on, or will be."""
    there = next(path for path in (place.absolute(), *place.absolute().parents) if path.exists())
    return there.stat().st_dev
