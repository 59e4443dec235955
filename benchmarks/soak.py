"""Whether memory grows with the number of steps: a small block-local network trained for long, watched."""

import torch
from peak import resident

import blocklocal as bl

GROWTH_LIMIT = 4  # MiB from the end of the warm-up, a tenth of the steps, to the last step
POINTS = 10
BLOCKS, SAMPLES = 4, 16
WORDS = f"ResNet-20 of width 8 in {BLOCKS} blocks, batches of {SAMPLES} new images of 3×16×16"


def soak(steps: int, device_name: str, threads: int) -> list[dict]:
    """Train; memory in MiB at `POINTS` evenly spaced steps, printed as it goes. To be called in a process of its own.

    now and peak: resident memory of the process; on CUDA what torch has allocated.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    device, rows = torch.device(device_name), []
    model = bl.build_model("resnet20", classes=10, channels=3, image_size=(16, 16), width=8)
    network = bl.BlockLocal(bl.split(model, BLOCKS), classes=10, optimizer=bl.sgd(0.01)).to(device)
    looks = {steps * k // POINTS for k in range(1, POINTS + 1)}
    for step in range(1, steps + 1):
        network.step(torch.randn(SAMPLES, 3, 16, 16, device=device), torch.randint(0, 10, (SAMPLES,), device=device))
        if step in looks:
            now, highest = _memory(device)
            rows.append({"step": step, "now": now / 2**20, "peak": highest / 2**20})
            print(f"{step:8} {rows[-1]['now']:10.2f} {rows[-1]['peak']:10.2f}", flush=True)
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
        f"soak: memory ({kind}) grew by {grown:.2f} MiB from step {rows[0]['step']} to {rows[-1]['step']}, "
        f"above {GROWTH_LIMIT}"
        for kind, grown in growth(rows).items()
        if grown > GROWTH_LIMIT
    ]
