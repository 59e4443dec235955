"""The processes of a run: a row of groups of blocks, each with one process or with several that share every batch.

Process number = group · replicas + replica, so that the replicas of a group, which average gradients, are neighbours
(on one host, where torchrun has started as many there).
"""

import json
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from blocklocal._common.errors import InputError, first_line
from blocklocal._common.screen import one_line
from blocklocal.parallel.address import RENDEZVOUS_TIMEOUT, Address
from blocklocal.parallel.store import SealedStore, decode
from blocklocal.parallel.watch import Watch, end_with_parent
from blocklocal.runs.machine import find_device

MESSAGE_TIMEOUT = 600.0
POLL_SECONDS = 0.005


@dataclass
class Processes:
    """This process among the others: `stage` of `stages` groups of blocks, `replica` of `replicas` within its group.

    Attributes:
        store: small facts, read by polling (it must not be blocked by a process that is gone).
        meetings: torch's own part of it, which must live as long as the process groups.
        message_timeout: seconds; a message that takes longer counts as an error.
        data: the replicas of this group of blocks, which average gradients; None without replicas.
    """

    address: Address
    store: SealedStore
    replicas: int
    message_timeout: float
    watch: Watch | None = None
    meetings: SealedStore | None = None
    data: DeviceMesh | None = None
    networks: int = 0  # that they have trained together so far
    broadcasts: int = 0
    gathers: int = 0

    @property
    def stages(self) -> int:
        return self.address.size // self.replicas

    @property
    def stage(self) -> int:
        return self.address.rank // self.replicas

    @property
    def replica(self) -> int:
        return self.address.rank % self.replicas

    @property
    def first(self) -> bool:
        return self.stage == 0

    @property
    def last(self) -> bool:
        return self.stage == self.stages - 1

    def edge_groups(self, backward: Sequence[bool]) -> list["Edge"]:
        """Process groups for every edge between neighbouring stages, made in the same order in every process.

        Args:
            backward: for each edge, whether messages of a chained twin come back.

        Returns:
            Those of this process: with the stage before (where there is one), then with the one behind.
        """
        own = []
        self.networks += 1
        store = self.store.within(f"network/{self.networks}")
        for stage in range(self.stages - 1):
            for replica in range(self.replicas):
                ranks = [stage * self.replicas + replica, (stage + 1) * self.replicas + replica]
                control, data = dist.new_group(ranks, backend="gloo"), dist.new_group(ranks)
                back = dist.new_group(ranks) if backward[stage] else None
                if self.address.rank in ranks:
                    own.append(Edge(ranks[0], ranks[1], store, control, data, back))
        return own

    def any_rank(self, wish: bool, device: torch.device) -> bool:
        """Whether any process of this group of blocks has the wish; the same answer in all of them."""
        if self.data is None:
            return wish
        asked = torch.tensor([int(wish)], device=device)
        dist.all_reduce(asked, op=dist.ReduceOp.MAX, group=self.data.get_group())
        return bool(asked.item())

    def wait_for(self, keys: Sequence[str], seconds: float, missing: Callable[[list[str]], str]) -> list[bytes]:
        """Values of keys, as soon as all are there.

        Args:
            missing: gives the words for keys that are not there.

        Raises:
            InputError: they are not all there after `seconds`.
        """
        end, found = time.monotonic() + seconds, dict[str, bytes]()
        while absent := [key for key in keys if key not in found]:
            found |= {key: value for key in absent if (value := self.store.read(key)) is not None}
            if len(found) < len(keys):
                if time.monotonic() > end:
                    raise InputError(missing([key for key in keys if key not in found]))
                time.sleep(POLL_SECONDS)
        return [found[key] for key in keys]

    def barrier(self, name: str) -> None:
        """Go on when every process has come here."""
        self.store.set(f"{name}/{self.address.rank}", "1")
        keys = [f"{name}/{rank}" for rank in range(self.address.size)]
        seconds = self.message_timeout
        self.wait_for(keys, seconds, lambda late: f"waited {seconds:.0f} s for {len(late)} processes to end.")

    def __enter__(self) -> "Processes":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave together; an error here ends all processes."""
        if error is None:
            self.barrier("end")
            self.leave()
            return
        from blocklocal.parallel.trouble import report_failure

        report_failure(self, error)

    def leave(self) -> None:
        if self.watch is not None:
            self.watch.stop()
        if dist.is_initialized():
            dist.destroy_process_group()


@dataclass(frozen=True)
class Edge:
    """Two neighbouring processes, with a process group each for headers, forward messages and backward messages.

    Attributes:
        store: for what is known once of this edge; that of another network has another.
    """

    source: int
    target: int
    store: SealedStore
    control: Any
    data: Any
    back: Any | None


def join(
    address: Address,
    *,
    replicas: int = 1,
    device: torch.device | None = None,
    settings: dict[str, Any] | None = None,
    watched: bool = True,
    rendezvous_timeout: float = RENDEZVOUS_TIMEOUT,
    message_timeout: float = MESSAGE_TIMEOUT,
) -> Processes:
    """Meet the other processes.

    Args:
        settings: must be the same in all (JSON-able).
        watched: a failure of any process ends all of them.
        rendezvous_timeout: seconds to wait for the others.
        message_timeout: seconds; a message that takes longer counts as an error.

    Raises:
        InputError: a process is missing after `rendezvous_timeout` or has other settings, or their number does not
            fit.
    """
    over = threading.Event()
    if watched and address.managed:
        end_with_parent(over)
    processes = Processes(address, address.connect(serve=True, seconds=rendezvous_timeout), replicas, message_timeout)
    if watched:
        processes.watch = Watch(address.connect(), address.rank, address.size, quiet=address.quiet, over=over)
        processes.watch.start()
    try:
        _check_same(processes, settings or {}, rendezvous_timeout)
        if address.size % replicas:
            raise InputError(
                f"{address.size} processes cannot form groups of {replicas} replicas: start a multiple of {replicas}, "
                "or change --replicas."
            )
        cuda = device is not None and device.type == "cuda"
        patience = max(message_timeout, rendezvous_timeout)
        processes.meetings = address.connect(patience=patience).within("torch")
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if cuda else "gloo",
            store=processes.meetings,
            rank=address.rank,
            world_size=address.size,
            timeout=timedelta(seconds=patience),
        )
        if replicas > 1:
            mesh = init_device_mesh(
                "cuda" if cuda else "cpu", (processes.stages, replicas), mesh_dim_names=("blocks", "data")
            )
            processes.data = mesh["data"]
    except InputError as error:
        if processes.watch is not None:
            processes.watch.fail(f"stopped: {error}", 2)
        raise
    except (dist.DistError, RuntimeError) as error:
        text = (
            f"process {address.rank} cannot connect to the others ({first_line(error)}): are their ports open, and "
            "does GLOO_SOCKET_IFNAME (NCCL_SOCKET_IFNAME) name a network interface that reaches them?"
        )
        if processes.watch is not None:
            processes.watch.fail(f"stopped: {text}", 1)
        raise InputError(text) from error
    return processes


def _check_same(processes: Processes, settings: dict[str, Any], seconds: float) -> None:
    """All processes are there, and agree with the first one."""
    size, rank = processes.address.size, processes.address.rank
    text = json.dumps(settings)
    settings = json.loads(text)  # as the others read it: a tuple is a list
    processes.store.set(f"settings/{rank}", text)

    def missing(keys: list[str]) -> str:
        absent = ", ".join(key.rpartition("/")[2] for key in keys)
        return (
            f"waited {seconds:.0f} s for {size} processes; {size - len(keys)} came, number {absent} did not: "
            "start as many as the launcher was told, with the same address."
        )

    said = processes.wait_for([f"settings/{r}" for r in range(size)], seconds, missing)
    first = decode(said[0], dict[str, Any])
    other = [name for name in {**first, **settings} if first.get(name) != settings.get(name)]
    if other:
        listed = ", ".join(f"{name} ({settings.get(name)!r} here, {first.get(name)!r} there)" for name in other)
        raise InputError(
            f"process {rank} was started with other settings than process 0: {one_line(listed)}. Give all processes "
            "the same command, and the same version of blocklocal and torch."
        )


def default_threads(address: Address) -> int:
    """The cores of this host, shared by its processes."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // address.local_size)


def own_device(name: str, address: Address) -> torch.device:
    """Every process of a host has a CUDA device of its own."""
    device = find_device(name)
    if device.type == "cuda" and device.index is None:
        check_devices(device, address.local_size)
        device = torch.device("cuda", address.local_rank)
        torch.cuda.set_device(device)
    return device


def check_devices(device: torch.device, processes: int) -> None:
    """Raise InputError where processes of this host would have to share a CUDA device."""
    if device.type == "cuda" and device.index is None and processes > torch.cuda.device_count():
        raise InputError(
            f"{processes} processes on a host with {torch.cuda.device_count()} CUDA device(s): start one process per "
            "device, or give --device cpu."
        )
