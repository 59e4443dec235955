"""`blocklocal train --processes P`: start P processes on this machine, speak for them, and leave none behind."""

import os
import secrets
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch.distributed as dist

from blocklocal._common.errors import InputError, first_line
from blocklocal._common.ranges import MANY, Range, check_settings, whole
from blocklocal._common.starting import start_script
from blocklocal.parallel import rank as rank_script
from blocklocal.parallel.address import LAUNCHED, RENDEZVOUS_TIMEOUT, SECRET
from blocklocal.parallel.processes import MESSAGE_TIMEOUT
from blocklocal.parallel.stage import MAX_IN_FLIGHT
from blocklocal.parallel.store import ANSWER_SECONDS, SealedStore, hold_store
from blocklocal.parallel.supervise import Children, outcome, say, supervise
from blocklocal.timeline.recorder import STEPS

HERE = "127.0.0.1"
SCRIPT = Path(rank_script.__file__)

SECONDS = Range(0.001, 10**7)
RANGES = {
    **dict.fromkeys(("processes", "replicas", "max_in_flight"), whole(1, 1024)),
    "placement": whole(1, 10_000),
    "timeline": whole(0, MANY),
    **dict.fromkeys(("message_timeout", "rendezvous_timeout"), SECONDS),
}


@dataclass(frozen=True)
class Launch:
    """How the blocks are spread over processes; it changes nothing in what is learned (but for replicas)."""

    processes: int = 1
    """Processes that share the blocks on this machine (under torchrun, as many as it has started)."""
    placement: tuple[int, ...] = ()
    """Blocks per process, first to last, such as 2 1 1; default: balanced by the measured time of the blocks' steps."""
    replicas: int = 1
    """Processes per group of blocks, each with its part of every batch; they average gradients (DDP)."""
    shard: bool = False
    """Replicas share parameters, gradients and optimiser states of their blocks (FSDP2), instead of a copy each."""
    max_in_flight: int = MAX_IN_FLIGHT
    """Messages that may be under way between two processes, before the faster one waits."""
    timeline: int = STEPS
    """Training steps of which every process (with --visit, the only one) records when it does what."""
    message_timeout: float = MESSAGE_TIMEOUT
    """Seconds after which a message that does not come is an error."""
    rendezvous_timeout: float = RENDEZVOUS_TIMEOUT
    """Seconds to wait for all processes to be there."""

    def __post_init__(self) -> None:
        check_settings(self, RANGES)
        if self.shard and self.replicas == 1:
            raise InputError("--shard divides blocks among replicas: give --replicas of 2 or more with it.")


def launch(command: Sequence[str], processes: int) -> int:
    """Run `blocklocal COMMAND` in `processes` processes.

    The run's store is here, so that it outlives any of them; only this machine reaches it.

    Returns:
        The exit status, after one message if it is not 0.
    """
    secret = secrets.token_hex(32)
    try:
        base = hold_store(HERE, 0, ANSWER_SECONDS)
        store = SealedStore(base, secret, "blocklocal/0/")
        with _pipe() as end, Children().listening() as children:
            for rank in range(processes):
                if children.asked:
                    break
                environment = _environment(rank, processes, base.port, secret)
                children.add(start_script(SCRIPT, [str(end), *command], environment, keep=[end]))
            supervise(children, store)
            return outcome(children, store)
    except (InputError, OSError, dist.DistError) as error:  # of the store, or of the starts; all processes are gone
        say(f"error: {first_line(error).removesuffix('.')}. All processes were stopped.")
        return 1


@contextmanager
def _pipe() -> Generator[int]:
    """The reading end of a pipe, for the processes to inherit: when it closes, they know that this process is gone."""
    end, ours = os.pipe()
    try:
        yield end
    finally:
        os.close(end)
        os.close(ours)


def _environment(rank: int, processes: int, port: int, secret: str) -> dict[str, str]:
    set_here = {
        "RANK": rank,
        "WORLD_SIZE": processes,
        "LOCAL_RANK": rank,
        "LOCAL_WORLD_SIZE": processes,
        "MASTER_ADDR": HERE,
        "MASTER_PORT": port,
        LAUNCHED: 1,
        SECRET: secret,
        "TORCHELASTIC_RESTART_COUNT": 0,  # of another launcher, where this one runs under it
    }
    # What torch itself has to say of a lost process is a dump of its stack: shown where the user asks for it.
    defaults = {"TORCH_CPP_LOG_LEVEL": "FATAL"} | ({"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {})
    return {**defaults, **os.environ, **{name: str(value) for name, value in set_here.items()}}
