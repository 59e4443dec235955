"""Where a process finds the others of its run: what torchrun (or `--processes`) says in its environment."""

import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from blocklocal._common.errors import InputError, first_line
from blocklocal.parallel.store import ANSWER_SECONDS, SealedStore, hold_store

LAUNCHED = "BLOCKLOCAL_LAUNCHED"  # set by `--processes`, whose parent holds the store and speaks for its processes
SECRET = "BLOCKLOCAL_SECRET"  # of the run; `--processes` draws one, under torchrun the user may give one
SHORTEST = 16  # characters of a secret
NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
RENDEZVOUS_TIMEOUT = 120.0
TRY_SECONDS, PAUSE_SECONDS = 5.0, 0.1  # for one try to reach the store, and until the next one


@dataclass(frozen=True)
class Address:
    """A process of `size`, and the key-value store through which they meet.

    Attributes:
        file: a store in a file that all processes reach, instead of host and port (tests).
        serves: this process holds the store at host:port.
        local_rank, local_size: among the processes of this host.
        managed: started by a launcher of somebody else's, with which it ends.
        quiet: the launcher tells the user what went wrong.
        secret: what is read from the store must be sealed with it.
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
    secret: str = field(default="", repr=False)

    def connect(
        self, serve: bool = False, seconds: float = RENDEZVOUS_TIMEOUT, patience: float = ANSWER_SECONDS
    ) -> SealedStore:
        """A connection of its own to the store (one thread must not wait for another's).

        Args:
            serve: hold the store, in the process that has it.
            seconds: to reach it.
            patience: seconds to wait for an answer.

        Raises:
            InputError: the store cannot be reached.
        """
        try:
            base = dist.FileStore(self.file, self.size) if self.file else self._open(serve and self.serves, seconds)
        except (OSError, dist.DistError) as error:
            raise InputError(
                f"process {self.rank} cannot reach the store of the run at {self.host}:{self.port} "
                f"({first_line(error)}). Is the first process started there, with the same MASTER_ADDR and "
                "MASTER_PORT, and is the port open?"
            ) from error
        base.set_timeout(timedelta(seconds=patience))
        return SealedStore(base, self.secret, f"blocklocal/{self.attempt}/")

    def _open(self, serve: bool, seconds: float) -> Any:
        if serve:
            return hold_store(self.host, self.port, seconds)
        self._await_port(seconds)
        return dist.TCPStore(self.host, self.port, timeout=timedelta(seconds=seconds), wait_for_workers=False)

    def _await_port(self, seconds: float) -> None:
        """Until somebody listens there: where nobody does, torch would dump its stack on the user's terminal."""
        end = time.monotonic() + seconds
        while True:
            try:
                socket.create_connection((self.host, self.port), min(TRY_SECONDS, seconds)).close()
                return
            except OSError:
                if time.monotonic() > end:
                    raise
            time.sleep(PAUSE_SECONDS)


def find_address(environment: Mapping[str, str] | None = None) -> Address | None:
    """The address that a launcher has set; None where this process is alone.

    Raises:
        InputError: what the launcher has set is not complete, or makes no sense.
    """
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
        managed=LAUNCHED not in said and "TORCHELASTIC_RUN_ID" in said,
        quiet=LAUNCHED in said,
        secret=_secret(said),
    )


def _number(said: Mapping[str, str], name: str) -> int | None:
    text = said.get(name)
    if not text:
        return None
    if not text.isdecimal():
        raise InputError(f"the environment variable {name} must be a whole number, not {text!r}.")
    return int(text)


def _secret(said: Mapping[str, str]) -> str:
    secret = said.get(SECRET, "")
    if secret and len(secret) < SHORTEST:
        raise InputError(
            f"the environment variable {SECRET} has {len(secret)} characters, which can be guessed: give the processes "
            f"of all hosts the same {SHORTEST} or more, such as those of `openssl rand -hex 32`."
        )
    return secret
