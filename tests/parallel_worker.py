"""One of several processes of a test: `python parallel_worker.py TASK RANK SIZE FOLDER REPLICAS`."""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import torch
from message_helpers import SEVERAL
from parallel_cases import CASES, batches, make, plain
from rule_helpers import same

from blocklocal import InputError
from blocklocal._common.dense import is_dense
from blocklocal.block.shards import local_shard
from blocklocal.parallel import Address, Processes, Stage, join
from blocklocal.parallel.links import STOP, Inbox, Outbox
from blocklocal.training.checkpoint_draft import Saved
from blocklocal.training.evaluation import measure_blocks

MISFITS = ("mlp", "copies read sequences", "chain, 1 late")
PLACEMENTS = {1: (4,), 2: (1, 3), 3: (1, 2, 1), 4: (1, 1, 1, 1)}


def train(case: str, processes: Processes, placement: tuple[int, ...], *, announced: bool) -> dict:
    """Train a case, look at the losses, evaluate once; what this process knows of its blocks."""
    stage = Stage(make(case), processes, placement)
    stage.configure(stage.optimizer, "one-cycle", 10)
    found, sizes = [], [len(y) for _, y in batches(case)]
    for epoch in range(2):
        stage.epoch = epoch
        if announced:
            stage.edges.expect(sizes, training=True)
        for x, y in batches(case):
            blind = not stage.processes.first and "image" not in case
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
        "weights": {learner.index: learner.state_dict() for learner in stage.learners},
    }


def equality(processes: Processes, folder: Path) -> None:
    for case in CASES:
        known = train(case, processes, PLACEMENTS[processes.stages], announced=len(case) % 2 == 0)
        torch.save(known, folder / f"{case}.{processes.address.rank}")


def misfits(processes: Processes, folder: Path) -> None:
    """Targets that no output fits: what every process says of them, and whether anything of it has changed."""
    said = {}
    for case in MISFITS:
        stage = Stage(make(case), processes, PLACEMENTS[processes.stages])
        stage.configure(stage.optimizer)
        before = copy.deepcopy(stage.state_dict())
        x, y = batches(case)[0]
        try:
            stage.step(x, y[:, None])
        except InputError as error:
            said[case] = str(error), same(before, stage.state_dict())
        stage.step(x, y)
        stage.finish()
    torch.save(said, folder / f"misfits.{processes.address.rank}")


def pressure(processes: Processes, folder: Path) -> None:
    """The second stage is slow: when every stage begins its steps, and what is under way at the most."""
    for depth in (1, 3):
        stage = Stage(make("mlp"), processes, PLACEMENTS[2], max_in_flight=depth)
        stage.configure(stage.optimizer)
        stage.edges.expect([6] * 20, training=True)
        x, y = batches("mlp")[0]
        begun, held = [], 0
        for _ in range(20):
            if processes.last:
                time.sleep(0.05)
            begun.append(time.time())
            stage.step(x, y)
            inbox, outbox = stage.edges._inbox, stage.edges._outbox
            held = max(held, len(inbox._posted) if inbox else 0, len(outbox._under_way) if outbox else 0)
        stage.finish()
        waited = stage.recorder.totals(1)["send"]
        torch.save({"begun": begun, "held": held, "waited": waited}, folder / f"{depth}.{processes.address.rank}")


def shapes(processes: Processes, folder: Path) -> None:
    """Messages of every layout and type through one link, as they were made."""
    edge = processes.edge_groups([False])[0]
    made = list(messages())
    if processes.first:
        outbox = Outbox(processes, edge, 2, 0, nullcontext)
        for a in made:
            outbox.expect([len(a)], training=bool(len(a) % 2))
            outbox.send(a)
        outbox.finish(STOP)
        return
    inbox = Inbox(processes, edge, 2, torch.device("cpu"), 0)
    for a in made:
        inbox.expect([len(a)], training=bool(len(a) % 2))
        got = inbox.take()
        assert got.dtype == a.dtype
        assert torch.equal(got, a)
        assert got.stride() == a.stride() or not is_dense(a)
    assert inbox.peek().kind == STOP


def messages() -> Iterator[torch.Tensor]:
    """Of different batch sizes, because a size has one layout."""
    yield torch.randn(1, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    yield torch.arange(2 * 3 * 4 * 5.0).view(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    yield torch.arange(12.0).view(4, 3).t().bfloat16()
    yield torch.arange(40.0).view(4, 10)[:, ::2]  # with gaps
    yield torch.arange(5, dtype=torch.int64)
    yield torch.arange(6.0).view(6, 1, 1, 1).expand(6, 2, 1, 1)  # memory shared by elements


def replicas(processes: Processes, folder: Path, *, shard: bool = False) -> None:
    """Every replica trains on its part of the batches; no BatchNorm, so the average is the whole batch's gradient.

    In between the network is evaluated, and what would be saved is what is kept.
    """
    stage = Stage(plain(), processes, PLACEMENTS[processes.stages], shard=shard)
    stage.configure(stage.optimizer)
    seen = []
    for x, y in batches("mlp"):
        each = len(y) // processes.replicas
        mine = slice(processes.replica * each, (processes.replica + 1) * each)
        stage.step(x[mine], y[mine])
        seen.append(stage.block_logits(x[mine]))
        seen.append(stage.message_sizes())
    stage.finish()
    saved = [Saved.of(learner) for learner in stage.learners]
    held = sum(local_shard(parameter).numel() for parameter in stage.parameters())
    torch.save(
        {
            "weights": {each.index: each.weights for each in saved},
            "learners": {each.index: each.optimizer for each in saved},
            "seen": seen,
            "held": held,
            "all": sum(parameter.numel() for parameter in stage.parameters()),
        },
        folder / f"replica.{processes.address.rank}",
    )


def shards(processes: Processes, folder: Path) -> None:
    replicas(processes, folder, shard=True)


def several(processes: Processes, folder: Path) -> None:
    """Messages of several tensors, whose shapes vary from step to step."""
    for kind, (build, given) in SEVERAL.items():
        stage = Stage(build(), processes, {2: (2, 2), 3: (1, 2, 1)}[processes.stages])
        stage.configure(stage.optimizer)
        losses = [[r.loss for r in stage.step(x, y)] for x, y in given]
        top1 = measure_blocks(stage, given)[0]["top1"]
        stage.finish()
        weights = {learner.index: learner.state_dict() for learner in stage.learners}
        torch.save({"losses": losses, "top1": top1, "weights": weights}, folder / f"{kind}.{processes.address.rank}")


TASKS = {
    "several": several,
    "equality": equality,
    "misfits": misfits,
    "pressure": pressure,
    "shapes": shapes,
    "replicas": replicas,
    "shards": shards,
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    task, rank, size, folder, parts = (
        sys.argv[1],
        int(sys.argv[2]),
        int(sys.argv[3]),
        Path(sys.argv[4]),
        int(sys.argv[5]),
    )
    address = Address(rank, size, file=str(folder / "store"))
    processes = join(address, replicas=parts, watched=False, message_timeout=60)
    TASKS[task](processes, folder)
    processes.barrier("done")
    processes.leave()
