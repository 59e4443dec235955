"""One process's part of a run that several share: `training.run` with a stage in the place of the network.

The first process loads the images, measures and decides; the last one, which nobody waits for, keeps the books
(`relay`). When training is over, the first one evaluates and reports as a run in one process does.
"""

import os
import shlex
import socket
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch

from blocklocal._common.errors import InputError, Interrupted
from blocklocal.data import Images, ImageSet
from blocklocal.network.network import BlockLocal
from blocklocal.parallel.address import Address
from blocklocal.parallel.placement import block_range
from blocklocal.parallel.plan import Order, Plan, agreed, make_plan, share_plan
from blocklocal.parallel.processes import Processes, default_threads, join, own_device
from blocklocal.parallel.relay import Console, Records, Relay, SharedCheckpoints
from blocklocal.parallel.stage import Stage
from blocklocal.parallel.trouble import tell, words
from blocklocal.parallel.watch import ASKED, introduce
from blocklocal.parallel.wire import LinkError, is_lost_connection
from blocklocal.runs.build import (
    Facts,
    Session,
    build_network,
    draw_network,
    evaluation_batches,
    load_data,
    set_threads,
    settle,
    training_batches,
)
from blocklocal.runs.conclude import conclude
from blocklocal.runs.config import Config
from blocklocal.runs.origin import cycle_of
from blocklocal.runs.run import (
    CHECKPOINTS,
    METRICS,
    find_checkpoint,
    new_progress,
    new_trainer,
    resumed,
)
from blocklocal.timeline.recorder import Recorder
from blocklocal.training.callbacks import Callback
from blocklocal.training.checkpoint import load_checkpoint
from blocklocal.training.loop import Stopped, Trainer
from blocklocal.training.observers import MetricsFile, TensorBoard, Warnings
from blocklocal.training.signals import StopSignals

TIMELINE = "timeline"


def train_share(address: Address, order: Order) -> dict[str, Any] | None:
    """Train this process's blocks; the first process returns the summary of the run, the others None.

    Raises InputError with what went wrong here; where it went wrong elsewhere, the process ends (see `watch`).
    """
    config = order.config
    with StopSignals() as signals:
        threads = set_threads(config.machine.threads or default_threads(address))
        device = own_device(config.machine.device, address)
        try:
            processes = join(
                address,
                replicas=order.launch.replicas,
                device=device,
                settings=agreed(order),
                join_seconds=order.launch.join,
                stall_seconds=order.launch.stall,
            )
        except InputError as error:
            if address.quiet:  # it was reported, and the launcher says it once for all
                raise SystemExit(2) from error
            raise
        try:
            return _train(processes, order, device, threads, signals)
        except Interrupted:
            raise
        except BaseException as error:
            status = tell(processes, error)
            expected = isinstance(error, InputError | LinkError | OSError) or is_lost_connection(error)
            if processes.address.quiet and expected:  # else a traceback is worth more than the launcher's line
                raise SystemExit(status) from error
            if isinstance(error, LinkError):
                raise InputError(words(processes, error)[0]) from error
            raise


def _train(
    processes: Processes, order: Order, device: torch.device, threads: int, signals: StopSignals
) -> dict[str, Any] | None:
    """This process's part of the training; the first process goes on to evaluate."""
    with ExitStack() as kept:  # the run's lock, in the first process
        made = make_plan(processes, order, device, kept) if processes.address.rank == 0 else None
        return _train_planned(processes, order, device, threads, signals, made)


def _train_planned(
    processes: Processes,
    order: Order,
    device: torch.device,
    threads: int,
    signals: StopSignals,
    made: tuple[Plan, ImageSet, BlockLocal] | None,
) -> dict[str, Any] | None:
    """made: the plan and what the first process has loaded for it."""
    config, rank = order.config, processes.address.rank
    plan = share_plan(processes, made[0] if made else None)
    network = made[2] if made else draw_network(config, plan.facts, plan.starts)
    first_sizes = network.message_sizes()
    recorder = _recorder(processes, order, plan, network.split.names, threads, device)
    stage = Stage(
        network,
        processes,
        plan.placement.sizes,
        queue=order.launch.queue,
        shard=order.launch.shard,
        device=device,
        recorder=recorder,
    )
    settle(stage, config, device)
    _introduce(processes, order, stage)
    data = made[1] if made else _data(config, plan, stage)
    names = network.split.names
    del made, network  # with the blocks that this process does not train
    stopped = _fit(processes, order, plan, stage, data, Books(names, first_sizes), signals)
    if stopped:
        raise Interrupted(
            order.output, f"blocklocal train --resume {shlex.quote(str(order.output))}{_flags(processes, order)}"
        )
    del stage
    return _conclude(order, plan, data, device, threads) if rank == 0 else None


@dataclass(frozen=True)
class Books:
    """What the last process writes down besides records: names of all blocks, and |b| per block before training."""

    names: list[str]
    first_sizes: list[float | None]


def _fit(
    processes: Processes, order: Order, plan: Plan, stage: Stage, data: ImageSet, books: Books, signals: StopSignals
) -> bool:
    """Train this stage to the end, or until the user stops it; returns whether that is so. All processes leave."""
    config, device, watch = order.config, stage.device, processes.watch
    assert watch is not None

    def should_stop() -> bool:
        if processes.first:
            return processes.agree(signals.asked or watch.asked, device)
        if signals.asked and not watch.asked:  # asked here alone (a host that is taken away): the first stage decides
            processes.store.set(ASKED, "1")
        return stage.stopped()

    trainer = new_trainer(config, stage, should_stop, cycle_of(order.output))
    batches = training_batches(config, data, device, (processes.replica, processes.replicas))
    trainer.prepare(batches)
    if plan.checkpoint is not None:
        trainer.restore(load_checkpoint(order.output / CHECKPOINTS / plan.checkpoint, stage))
    relay = Relay(processes)
    saver = SharedCheckpoints(
        order.output / CHECKPOINTS, relay, config.machine.checkpoint_every, shared=order.launch.shard
    )
    validation = None
    if len(data.validation):
        validation = stage.announced(evaluation_batches(config, data.validation, plan.facts, device), training=False)
    trainer.callbacks = [Records(relay, stage)]
    with ExitStack() as open_books:
        if processes.last and processes.replica == 0:
            trainer.callbacks += _keep_books(order, plan, stage, trainer, books, len(batches), open_books)
        trainer.callbacks.append(saver)
        stopped = False
        try:
            trainer.fit(stage.announced(batches, training=True), validation)
        except Stopped:
            stopped = True
        stage.finish(stop=stopped)
        if stopped:
            saver.save(trainer)
        stage.recorder.close()
        processes.meet("end")
    processes.leave()
    return stopped or (processes.address.rank == 0 and signals.asked)


def _keep_books(
    order: Order, plan: Plan, stage: Stage, trainer: Trainer, books: Books, steps: int, opened: ExitStack
) -> list[Callback]:
    """Metrics, console, warnings and TensorBoard, as in a run in one process."""
    metrics = MetricsFile(order.output / METRICS)
    if plan.checkpoint is not None:
        metrics.write(resumed(trainer, plan.changes))
    progress = new_progress(order.config, plan.name, books.names, order.output, steps, trainer.step, order.quiet)
    opened.enter_context(progress)
    watchers: list[Callback] = [metrics, Console(stage, progress), Warnings(books.first_sizes, metrics, progress)]
    if order.config.machine.tensorboard:
        board = TensorBoard(order.output / "tensorboard")
        opened.callback(board.close)
        watchers.append(board)
    return watchers


def _recorder(
    processes: Processes, order: Order, plan: Plan, names: list[str], threads: int, device: torch.device
) -> Recorder:
    rank, sizes = processes.address.rank, plan.placement.sizes
    first = sum(sizes[: processes.stage])
    blocks = list(range(first, first + sizes[processes.stage]))
    process = {
        "process": rank,
        "replica": processes.replica,
        "stage": processes.stage,
        "blocks": blocks,
        "names": [names[k] for k in blocks],
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "threads": threads,
        "device": str(device),
    }
    return Recorder(order.output / TIMELINE / f"process-{rank}.jsonl", process, steps=order.launch.timeline)


def _introduce(processes: Processes, order: Order, stage: Stage) -> None:
    blocks = block_range(stage.units[0].index + 1, len(stage.units))
    advice = f"Go on from the last checkpoint with: blocklocal train --resume {shlex.quote(str(order.output))}"
    introduce(
        processes.store,
        processes.address.rank,
        f"{blocks}, pid {os.getpid()} on {socket.gethostname()}",
        advice + _flags(processes, order),
    )


def _flags(processes: Processes, order: Order) -> str:
    replicas = f" --replicas {processes.replicas}" if processes.replicas > 1 else ""
    replicas += " --shard" if order.launch.shard else ""
    launched = f" --processes {processes.address.size}" if processes.address.quiet else ""
    return launched + replicas + ("" if launched else " (under torchrun as before)")


def _data(config: Config, plan: Plan, stage: Stage) -> ImageSet:
    """The image set where this process reads images; else its labels alone, which the first process has sent."""
    if stage.reads_images:
        data = load_data(config)
        same = all(torch.equal(getattr(data, name).labels, labels) for name, labels in plan.labels.items())
        if Facts.of(data) != plan.facts or not same:
            raise InputError(
                f"process {stage.processes.address.rank} finds another data set under {config.data.data!r} than "
                "process 0: put the same files there."
            )
        return data
    f = plan.facts
    blank = {
        name: Images(torch.empty(len(y), f.channels, 0, 0, dtype=torch.uint8), y) for name, y in plan.labels.items()
    }
    return ImageSet(plan.name, classes=f.classes, mean=f.mean, std=f.std, skipped=plan.skipped, account=(), **blank)


def _conclude(order: Order, plan: Plan, data: ImageSet, device: torch.device, threads: int) -> dict[str, Any]:
    """Evaluate and report with the whole network, from the last checkpoint."""
    config, folder = order.config, order.output
    network = build_network(config, plan.facts, device, plan.starts)
    path = find_checkpoint(folder)
    assert path is not None
    trainer = new_trainer(config, network, lambda: False)
    trainer.restore(load_checkpoint(path, network, learners=False))
    session = Session(
        config,
        data,
        plan.facts,
        network,
        training_batches(config, data, device),
        device,
        threads,
        plan.placement.sizes,
        order.launch.replicas,
    )
    return conclude(session, folder, trainer)
