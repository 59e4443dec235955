"""One of several processes of a test: `python parallel_worker.py TASK RANK SIZE FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from parallel_cases import CASES, batches, make

from blocklocal.parallel import Address, Processes, Stage, join

PLACEMENTS = {1: (4,), 2: (1, 3), 3: (1, 2, 1), 4: (1, 1, 1, 1)}


def train(case: str, processes: Processes, placement: tuple[int, ...], *, announced: bool) -> dict:
    """Train a case, look at the losses, evaluate once; what this process knows of its blocks."""
    stage = Stage(make(case), processes, placement)
    stage.configure(stage.optimizer, "one-cycle", 10)
    stage.begin()
    found, sizes = [], [len(y) for _, y in batches(case)]
    for epoch in range(2):
        stage.epoch = epoch
        if announced:
            stage.expect(sizes, training=True)
        for x, y in batches(case):
            blind = stage._inbox is not None and "image" not in case
            results = stage.step(torch.empty(len(y), 0) if blind else x, y)
            found.append([None if r is None else r.loss for r in results])
    x, _ = batches(case)[0]
    stage.eval()
    logits, sizes = stage.block_logits(x), stage.message_sizes()
    stage.finish()
    return {
        "losses": found,
        "logits": logits,
        "sizes": sizes,
        "weights": {unit.index: unit.state_dict() for unit in stage.units},
    }


def equality(processes: Processes, folder: Path) -> None:
    for case in CASES:
        known = train(case, processes, PLACEMENTS[processes.stages], announced=len(case) % 2 == 0)
        torch.save(known, folder / f"{case}.{processes.address.rank}")


TASKS = {"equality": equality}

if __name__ == "__main__":
    torch.set_num_threads(1)
    task, rank, size, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    processes = join(Address(rank, size, file=str(folder / "store")), watched=False, stall_seconds=60)
    TASKS[task](processes, folder)
    processes.meet("done")
    processes.leave()
