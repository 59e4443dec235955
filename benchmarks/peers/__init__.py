"""The methods that `parallel.py` measures. A further one is a `build` function and a line in METHODS."""

from peers import backprop, block_local, pipeline
from peers.base import Method, Task

ONE_PROCESS = "block-local, 1 process"  # what every ratio is relative to
BACKPROP = "backprop, 1 thread"
PARALLEL = "block-local, 2 processes"  # what is measured against the rest
INDEPENDENT = "two independent processes"

# BatchNorm sees a part of the batch there, so the losses of these differ a little from backprop's.
_BY_PARTS = {"processes": 2, "linked": True, "like": BACKPROP, "within": 0.3}

PEERS = (
    *(Method(f"DDP, {size} MiB buckets", backprop.data_parallel(size), **_BY_PARTS) for size in (25, 2)),
    *(
        Method(f"{schedule}, {count} micro-batches", pipeline.builder(schedule, count), **_BY_PARTS)
        for schedule in ("GPipe", "1F1B")
        for count in pipeline.MICRO_BATCHES
    ),
)

METHODS = (
    Method(ONE_PROCESS, block_local.one_process),
    Method(BACKPROP, backprop.one_process),
    Method("backprop, 2 threads", backprop.one_process, threads=2, like=BACKPROP, within=0.01),
    Method(PARALLEL, block_local.two_processes, processes=2, linked=True, like=ONE_PROCESS, within=1e-6),
    *PEERS,
    Method(INDEPENDENT, block_local.one_process, processes=2, batches=2, like=ONE_PROCESS, within=1e-3),
)

__all__ = ["BACKPROP", "INDEPENDENT", "METHODS", "ONE_PROCESS", "PARALLEL", "PEERS", "Method", "Task"]
