"""Peak memory of one method, in a process of its own: nothing that another method left behind counts.

Three steps are taken; counted is the highest beyond what was there before the first. So it holds activations,
gradients, the optimiser's state and workspaces; not parameters, data or code (another network of the same kind took a
tiny step before).

    peak      with the allocator as it is, so with what it keeps for later and cannot use: resident memory of the
              process as the Linux kernel counts it; on CUDA what torch has reserved
    in_use    without that: resident memory where every tensor has pages of its own, which it gives back when it is
              freed (glibc's MALLOC_MMAP_THRESHOLD_); on CUDA what torch has allocated
"""

import ctypes
import gc
import multiprocessing
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from memory_networks import Case, Method, build
from torch import Tensor

from blocklocal.network.network import BlockLocal

KINDS = ("peak", "in_use")
STEPS = 3
FINENESS = 32  # the largest batch is found to one part in so many
OWN_PAGES = {"MALLOC_MMAP_THRESHOLD_": "65536"}
_PROCESS = Path("/proc/self")


def apart(function: Callable, *arguments: Any, environment: Mapping[str, str] | None = None) -> Any:
    """The result of a module's function in a fresh process, with some more environment variables."""
    mine = dict(os.environ)
    os.environ.update(environment or {})  # a process takes them over when it starts
    try:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
            return process.submit(function, *arguments).result()
    finally:
        os.environ.clear()
        os.environ.update(mine)


def peaks(case: Case, method: Method, batch: int, device_name: str, threads: int) -> dict[str, int]:
    """Bytes of both `KINDS`."""
    if torch.device(device_name).type == "cuda":
        return apart(cuda_peaks, case, method, batch, device_name)
    where = (case, method, batch, threads)
    return {"peak": apart(cpu_peak, *where), "in_use": apart(cpu_peak, *where, environment=OWN_PAGES)}


def cpu_peak(case: Case, method: Method, batch: int, threads: int) -> int:
    """Resident bytes at the peak of a few steps, beyond those before. To be called in a process of its own."""
    torch.set_num_threads(threads)
    network, x, y = _ready(case, method, batch, torch.device("cpu"))
    _forget_peak()
    before = resident()
    _train(network, x, y)
    return resident("VmHWM") - before


def cuda_peaks(case: Case, method: Method, batch: int, device_name: str) -> dict[str, int]:
    """The same of what torch has reserved and allocated. To be called in a process of its own."""
    device = torch.device(device_name)
    network, x, y = _ready(case, method, batch, device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    reserved, allocated = torch.cuda.memory_reserved(device), torch.cuda.memory_allocated(device)
    _train(network, x, y)
    return {
        "peak": torch.cuda.max_memory_reserved(device) - reserved,
        "in_use": torch.cuda.max_memory_allocated(device) - allocated,
    }


def _ready(case: Case, method: Method, batch: int, device: torch.device) -> tuple[BlockLocal, Tensor, Tensor]:
    """A new network and its batch, after code was loaded and threads were started for another one."""
    build(case, method, device).step(*case.on(device, 2))
    network, (x, y) = build(case, method, device), case.on(device, batch)
    gc.collect()
    return network, x, y


def _train(network: BlockLocal, x: Tensor, y: Tensor) -> None:
    for _ in range(STEPS):
        network.step(x, y)


def available() -> bool:
    """Whether this system says how much memory a process has."""
    return (_PROCESS / "status").exists() and (_PROCESS / "clear_refs").exists()


def resident(kind: str = "VmRSS") -> int:
    """Resident bytes of this process: now, or the highest so far ("VmHWM")."""
    for line in (_PROCESS / "status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == kind:
            return int(value.split()[0]) * 1024
    raise LookupError(f"{_PROCESS / 'status'} has no {kind}")


def _forget_peak() -> None:
    """Give free memory back to the system, so that it counts when it is taken again, and start VmHWM anew."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc
    if trim:
        trim(0)
    (_PROCESS / "clear_refs").write_text("5")  # man 5 proc


def largest_batch(case: Case, method: Method, device_name: str) -> int:
    """The most samples per step that the device's memory takes. To be called in a process of its own."""
    device = torch.device(device_name)
    network = build(case, method, device)
    return largest(lambda batch: _fits(network, case, batch, device), case.batch)


def _fits(network: BlockLocal, case: Case, batch: int, device: torch.device) -> bool:
    fits = True
    try:
        x, y = case.on(device, batch)
        for _ in range(2):  # the first step makes the optimiser's state
            network.step(x, y)
    except torch.OutOfMemoryError:
        fits = False
    x = y = None  # the batch goes before the next one comes
    network.zero_grad(set_to_none=True)
    gc.collect()
    torch.cuda.empty_cache()
    return fits


def largest(fits: Callable[[int], bool], start: int) -> int:
    """The largest number that fits, to one part in `FINENESS`: by doubling from `start`, then by halving the gap.

    0 where not even one fits.
    """
    low, high = 0, start
    while fits(high):
        low, high = high, 2 * high
    while high - low > max(1, low // FINENESS):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
