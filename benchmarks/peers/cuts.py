"""Where to cut in two, for each method that cuts: so that both halves take the same time in that method's own step."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

import blocklocal as bl
from blocklocal.block.learner import BlockLearner
from blocklocal.block.step import StepContext
from blocklocal.rules.base import Batch, block_step, target_messages
from blocklocal.splitting import partition, piece_costs
from peers import block_local, pipeline
from peers.base import Task, build_batch, build_model, loss_of

_REPEATS = 4
Halves = tuple[float, float]  # seconds of the first and of the second half


def find_cuts(task: Task) -> tuple[dict[str, str], dict[str, float]]:
    """Task.cuts, and the seconds of the slower half over the mean of both; measured with one thread."""
    torch.set_num_threads(1)
    units = build_model(task).units()  # type: ignore[operator]
    names = [name for name, _ in units]
    x, _ = build_batch(
        replace(task, batch=max(1, task.batch // max(pipeline.MICRO_BATCHES))), task.device, channels_last=False
    )
    costs = piece_costs([unit.to(task.device) for _, unit in units], x, "time")
    guess = partition(costs, 2)[0]
    cuts, balance = {}, {}
    for key, halves in _measures(task).items():
        place, (first, second) = descend(guess, len(names), lambda i, halves=halves: halves(names[i]))
        cuts[key], balance[key] = names[place], max(first, second) / ((first + second) / 2)
    return cuts, balance


def descend(position: int, count: int, seconds: Callable[[int], Halves]) -> tuple[int, Halves]:
    """Move the cut before unit `position` of `count` towards the slower half as long as that one gets faster."""
    best = seconds(position)
    while True:
        following = position + (-1 if best[0] > best[1] else 1)
        if not 1 <= following < count:
            return position, best
        halves = seconds(following)
        if max(halves) >= max(best):
            return position, best
        position, best = following, halves


def _measures(task: Task) -> dict[str, Callable[[str], Halves]]:
    measures: dict[str, Callable[[str], Halves]] = {block_local.CUT: lambda cut: _local_halves(task, cut)}
    for count in pipeline.MICRO_BATCHES:
        measures[pipeline.cut_key(count)] = lambda cut, count=count: _stage_halves(task, cut, count)
    return measures


def _local_halves(task: Task, cut: str) -> Halves:
    """One local step of each of the two learners."""
    network = block_local.build_network(task, torch.device(task.device), cut)
    x, y = build_batch(task, task.device, channels_last=True)
    with torch.no_grad():
        sources = [x, network.learners[0](x)]
    rows = network.rows

    def local(learner: BlockLearner, k: int) -> None:
        message = target_messages(network.learners, rows)[k]
        block_step(learner, sources[k], Batch(x, y, rows, StepContext()), message)

    return _seconds(x, [lambda k=k, learner=learner: local(learner, k) for k, learner in enumerate(network.learners)])


def _stage_halves(task: Task, cut: str, micro_batches: int) -> Halves:
    """Forward and backward of one micro-batch in each stage."""
    first, second = (block.to(task.device).train() for block in bl.split(build_model(task), at=[cut]).blocks)
    x, y = (t.chunk(micro_batches)[0] for t in build_batch(task, task.device, channels_last=False))
    middle = first(x).detach().requires_grad_()
    gradient = torch.ones_like(middle)
    return _seconds(x, [lambda: first(x).backward(gradient), lambda: loss_of(second(middle), y).backward()])


def _seconds(x: Tensor, halves: Sequence[Callable[[], None]]) -> Halves:
    """The fastest of a few runs that alternate: what else the machine does only ever makes one slower."""
    wait = torch.cuda.synchronize if x.is_cuda else lambda: None
    times: list[list[float]] = [[] for _ in halves]
    for _ in range(_REPEATS):
        for half, taken in zip(halves, times, strict=True):
            wait()
            start = time.perf_counter()
            half()
            wait()
            taken.append(time.perf_counter() - start)
    first, second = (min(taken) for taken in times)
    return first, second
