"""Whether memory grows with the number of steps: a small block-local network trained for long, watched.

In one process, and spread over two whose messages, records and store are part of what could grow.
"""

import multiprocessing
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from peak import resident
from torch import Tensor

import blocklocal as bl
from blocklocal.parallel import Address, Stage, join
from blocklocal.timeline.recorder import Recorder

GROWTH_LIMIT = 4  # MiB from the end of the warm-up, a tenth of the steps, to the last step
POINTS = 10
BLOCKS, SAMPLES = 4, 16
EPOCH = 50  # steps that a process is told of at a time
WORDS = f"ResNet-20 of width 8 in {BLOCKS} blocks, batches of {SAMPLES} new images of 3×16×16"


def soak(steps: int, device_name: str, threads: int) -> list[dict]:
    """Train; memory in MiB at `POINTS` evenly spaced steps, printed as it goes. To be called in a process of its own.

    now and peak: resident memory of the process; on CUDA what torch has allocated.
    """
    torch.set_num_threads(threads)
    device = torch.device(device_name)
    network = _network().to(device)
    return _watched(network.step, steps, device, "one process")


def soak_spread(steps: int, device_name: str) -> list[list[dict]]:
    """The same in two processes with half of the blocks each; the rows of both."""
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(2, spawn) as pool:
        shares = [pool.submit(_share, steps, device_name, rank, Path(folder)) for rank in range(2)]
        return [share.result() for share in shares]


def _share(steps: int, device_name: str, rank: int, folder: Path) -> list[dict]:
    torch.set_num_threads(1)
    device = torch.device(device_name)
    processes = join(Address(rank, 2, file=str(folder / "store")), device=device, watched=False)
    recorder = Recorder(folder / f"process-{rank}.jsonl", {"process": rank}, steps=100)
    with processes:
        stage = Stage(_network(), processes, (BLOCKS // 2, BLOCKS // 2), device=device, recorder=recorder)
        done = 0

        def step(x: Tensor, y: Tensor) -> None:
            nonlocal done
            if done % EPOCH == 0:
                stage.edges.expect([SAMPLES] * min(EPOCH, steps - done), training=True)
            done += 1
            stage.step(x, y)
            stage.edges.stopped()

        return _watched(step, steps, device, f"process {rank} of two", finish=stage.finish)


def _network() -> bl.BlockLocal:
    torch.manual_seed(0)
    model = bl.build_model("resnet20", classes=10, channels=3, image_size=(16, 16), width=8)
    return bl.BlockLocal(bl.split(model, BLOCKS), classes=10, optimizer=bl.sgd(0.01), readout=0)


def _watched(
    step: Callable[[Tensor, Tensor], object],
    steps: int,
    device: torch.device,
    who: str,
    finish: Callable[[], None] | None = None,
) -> list[dict]:
    looks, rows = {steps * k // POINTS for k in range(1, POINTS + 1)}, []
    for number in range(1, steps + 1):
        step(torch.randn(SAMPLES, 3, 16, 16, device=device), torch.randint(0, 10, (SAMPLES,), device=device))
        if number == steps and finish is not None:
            finish()
        if number in looks:
            now, highest = _memory(device)
            rows.append({"who": who, "step": number, "now": now / 2**20, "peak": highest / 2**20})
            print(f"{who:16} {number:8} {rows[-1]['now']:10.2f} {rows[-1]['peak']:10.2f}", flush=True)
    return rows


def _memory(device: torch.device) -> tuple[int, int]:
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device), torch.cuda.max_memory_allocated(device)
    return resident(), resident("VmHWM")


def growth(rows: list[dict]) -> dict[str, float]:
    """MiB by which memory, and its peak, grew since the end of the warm-up."""
    return {kind: rows[-1][kind] - rows[0][kind] for kind in ("now", "peak")}


def shortfalls(rows: list[dict]) -> list[str]:
    """A line for each of the two that grew by more than `GROWTH_LIMIT`."""
    return [
        f"soak, {rows[0]['who']}: memory ({kind}) grew by {grown:.2f} MiB from step {rows[0]['step']} to "
        f"{rows[-1]['step']}, above {GROWTH_LIMIT}"
        for kind, grown in growth(rows).items()
        if grown > GROWTH_LIMIT
    ]
