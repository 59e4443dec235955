"""How blocks come into memory and go: the settings of a streamed run."""

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from blocklocal._common.choices import check_choices
from blocklocal._common.errors import InputError
from blocklocal._common.limits import parse_bytes
from blocklocal._common.ranges import check_settings, whole
from blocklocal.streaming.place import RAM

Medium: TypeAlias = Literal["ram", "files"]
VISIT, BLOCKS = whole(1, 1_000_000), whole(1, 3)
RANGES = {"visit": VISIT, "blocks_in_memory": BLOCKS}


@dataclass(frozen=True)
class Streaming:
    """One block in memory at a time; it changes nothing in what is learned."""

    visit: int | None = None
    """Steps that a block takes in a row while it is in memory; the others rest. Default: all blocks stay in memory."""
    store: str = ""
    """Where blocks rest: ram, or a new folder, on another disk perhaps. Default: in the run folder."""
    boundary_cache: Medium = "ram"
    """Where the messages between two blocks lie, one per step of a visit: ram, or files (in the store)."""

    blocks_in_memory: int = 3
    """Blocks in memory at a time, at most: 3 (one computes, one comes, one goes), 2 or 1."""
    memory: str = ""
    """Most memory that the run may take, such as 4GiB. Visits, and the number of blocks, are chosen so that it fits."""

    @property
    def wanted(self) -> bool:
        """Whether one block at a time is to be in memory."""
        return self.visit is not None or bool(self.memory)

    @property
    def looked_at(self) -> "Streaming":
        """How blocks come into memory where the whole network is only looked at, before training: from no store."""
        return replace(self, store=RAM, boundary_cache="ram")

    def __post_init__(self) -> None:
        check_settings(self, RANGES)
        check_choices(self)
        if self.memory:
            parse_bytes(self.memory)
            if (self.boundary_cache, self.blocks_in_memory) != ("ram", 3):
                raise InputError(
                    "--memory chooses where messages lie and how many blocks are in memory: leave out --boundary-cache "
                    "and --blocks-in-memory, or give --visit N in its place."
                )
        if not self.wanted and (self.store, self.boundary_cache, self.blocks_in_memory) != ("", "ram", 3):
            raise InputError(
                "--store, --boundary-cache and --blocks-in-memory say how blocks come and go: give --visit N or "
                "--memory SIZE with them."
            )
