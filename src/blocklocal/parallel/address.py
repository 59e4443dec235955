"""Where a process finds the others of its run: what torchrun (or `--processes`) says in its environment."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

import torch.distributed as dist

from blocklocal.errors import InputError

LAUNCHED = "BLOCKLOCAL_LAUNCHED"  # set by `--processes`, whose parent holds the store and speaks for its processes
NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
JOIN_SECONDS = 120.0


@dataclass(frozen=True)
class Address:
    """A process of `size`, and the key-value store through which they meet.

    file: a store in a file that all processes reach, instead of host and port (tests). serves: this process holds the
    store at host:port. local_rank, local_size: among the processes of this host. managed: started by a launcher, and
    ends with it. quiet: the launcher says what went wrong.
    """

    rank: int
    size: int
    host: str = ""
    port: int = 0
    file: str = ""
    serves: bool = False
    local_rank: int = 0
    local_size: int = 1
    attempt: int = 0
    managed: bool = False
    quiet: bool = False

    def connect(self, serve: bool = False, seconds: float = JOIN_SECONDS) -> dist.Store:
        """A connection of its own to the store (one thread must not wait for another's). serve: the first one."""
        if self.file:
            return dist.FileStore(self.file, self.size)
        try:
            store: dist.Store = dist.TCPStore(
                self.host,
                self.port,
                is_master=serve and self.serves,
                timeout=timedelta(seconds=seconds),
                wait_for_workers=False,
            )
        except dist.DistError as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError(
                f"process {self.rank} cannot reach the store of the run at {self.host}:{self.port} ({reason}). Is the "
                "first process started there, with the same MASTER_ADDR and MASTER_PORT, and is the port open?"
            ) from error
        return dist.PrefixStore(f"blocklocal/{self.attempt}", store)


def find_address(environment: Mapping[str, str] | None = None) -> Address | None:
    """The address that a launcher has set; None where this process is alone."""
    said = os.environ if environment is None else environment
    size = _number(said, "WORLD_SIZE")
    if size is None or (size == 1 and LAUNCHED not in said):
        return None
    missing = [name for name in NEEDED if not said.get(name)]
    if missing:
        raise InputError(
            f"WORLD_SIZE={size} says that {size} processes take part, but {', '.join(missing)} is not set: start them "
            "with torchrun, or leave WORLD_SIZE out and give --processes."
        )
    rank, port = _number(said, "RANK") or 0, _number(said, "MASTER_PORT") or 0
    if not 0 <= rank < size:
        raise InputError(f"RANK={rank} is not one of {size} processes: expected 0 to {size - 1}.")
    held_elsewhere = LAUNCHED in said or said.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    return Address(
        rank,
        size,
        said["MASTER_ADDR"],
        port,
        serves=rank == 0 and not held_elsewhere,
        local_rank=_number(said, "LOCAL_RANK") or 0,
        local_size=_number(said, "LOCAL_WORLD_SIZE") or 1,
        attempt=_number(said, "TORCHELASTIC_RESTART_COUNT") or 0,
        managed=LAUNCHED in said or "TORCHELASTIC_RUN_ID" in said,
        quiet=LAUNCHED in said,
    )


def _number(said: Mapping[str, str], name: str) -> int | None:
    text = said.get(name)
    if not text:
        return None
    if not text.isdecimal():
        raise InputError(f"the environment variable {name} must be a whole number, not {text!r}.")
    return int(text)
