"""What the simulator says of the methods that cut, from the times of their blocks measured in this run."""

import torch
from network import bits_per_second

from blocklocal.simulate import BlockCosts, Link, measure, simulate
from peers import PARALLEL, block_local, pipeline
from peers.base import Task, build_batch, channels_last

LATENCY = 1e-4  # seconds of a message between two processes of a machine
REPEATS = 3

Costs = dict[str, list[BlockCosts]]


def find_costs(task: Task) -> Costs:
    """Costs of the two blocks of every cut (a key of Task.cuts), as its method lays out its tensors; one thread."""
    torch.set_num_threads(1)
    costs = {block_local.CUT: _measured(task, block_local.CUT, 1)}
    return costs | {pipeline.cut_key(m): _measured(task, pipeline.cut_key(m), m) for m in pipeline.MICRO_BATCHES}


def _measured(task: Task, key: str, micro_batches: int) -> list[BlockCosts]:
    network = block_local.cut_network(task, task.cuts[key])
    last = key == block_local.CUT
    if last:
        channels_last(network, torch.device(task.device))
    x, y = build_batch(task, task.device, channels_last=last)
    return measure(network.to(task.device), x, y, micro_batches=micro_batches, repeats=REPEATS)


def predicted_speeds(costs: Costs, link: str | None) -> dict[str, float]:
    """By method, batches per second relative to block-local in one process."""
    wire = Link(bits_per_second(link) / 8, LATENCY) if link else Link(latency=LATENCY)
    local = costs[block_local.CUT]
    one = sum(block.local_step for block in local)
    found = {PARALLEL: one / simulate("block-local", local, 2, link=wire).step_seconds}
    for name in ("GPipe", "1F1B"):
        for m in pipeline.MICRO_BATCHES:
            result = simulate(name.lower(), costs[pipeline.cut_key(m)], 2, m, link=wire, flush=False)
            found[f"{name}, {m} micro-batches"] = one / result.step_seconds
    return found
