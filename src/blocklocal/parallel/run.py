"""One process's part of a run that several share: `training.run` with a stage in the place of the network.

The first process loads the images, measures and decides; the last one, which nobody waits for, keeps the books
(`relay`). When training is over, the first one evaluates and reports as a run in one process does.
"""

import copy
import hashlib
import os
import shlex
import socket
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import blocklocal
from blocklocal.config import Config, load_config
from blocklocal.data import Images, ImageSet
from blocklocal.errors import InputError, file_trouble
from blocklocal.network import BlockLocal
from blocklocal.parallel.address import Address
from blocklocal.parallel.launch import Launch
from blocklocal.parallel.links import LinkError, is_lost_connection
from blocklocal.parallel.placement import Placement, block_range, place, step_seconds
from blocklocal.parallel.processes import Processes, default_threads, join
from blocklocal.parallel.recorder import Recorder
from blocklocal.parallel.relay import Console, Records, Relay, SharedCheckpoints
from blocklocal.parallel.stage import Stage, check_placement, check_rule
from blocklocal.parallel.watch import introduce
from blocklocal.training.build import (
    Facts,
    Session,
    build_network,
    draw_network,
    evaluation_batches,
    find_device,
    load_data,
    set_threads,
    settle,
    training_batches,
)
from blocklocal.training.checkpoint import clear_leftovers, load_checkpoint
from blocklocal.training.loop import Observer, Stopped, Trainer
from blocklocal.training.observers import MetricsFile, TensorBoard, Warnings
from blocklocal.training.run import (
    CHECKPOINTS,
    METRICS,
    Interrupted,
    check_facts,
    check_free,
    conclude,
    create_run,
    find_checkpoint,
    load_cuts,
    load_unfinished,
    new_progress,
    new_trainer,
    resumed,
)
from blocklocal.training.signals import StopSignals

TIMELINE = "timeline"
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Order:
    """What the user has asked for."""

    config: Config
    launch: Launch
    output: Path
    resume: bool = False
    checkpoint: str | None = None
    quiet: bool = False


@dataclass(frozen=True)
class Plan:
    """What the first process has decided: the same for all."""

    facts: Facts
    name: str
    skipped: int
    labels: dict[str, Tensor]
    starts: list[int] | None
    placement: Placement
    checkpoint: str | None


def train_share(address: Address, order: Order) -> dict[str, Any] | None:
    """Train this process's blocks; the first process returns the summary of the run, the others None.

    Raises InputError with what went wrong here; where it went wrong elsewhere, the process ends (see `watch`).
    """
    config = order.config
    threads = set_threads(config.machine.threads or default_threads(address))
    device = _own_device(config.machine.device, address)
    processes = join(
        address,
        replicas=order.launch.replicas,
        device=device,
        settings=_agreed(order),
        join_seconds=order.launch.join,
        stall_seconds=order.launch.stall,
    )
    try:
        return _train(processes, order, device, threads)
    except Interrupted:
        raise
    except LinkError as error:
        _explain(processes, error)
        raise
    except InputError as error:
        _fail(processes, f"stopped: {error}", 2)
        raise
    except OSError as error:
        _fail(processes, f"stopped: {file_trouble(error)}", 1)
        raise
    except BaseException as error:
        if is_lost_connection(error):  # inside a collective of torch, so it does not say whose
            assert processes.watch is not None
            processes.watch.await_cause()
        _fail(processes, f"failed: {type(error).__name__}: {error}", 1)
        raise


def _fail(processes: Processes, text: str, status: int) -> None:
    """Tell the others; where the launcher speaks for all, this process ends without a word of its own."""
    assert processes.watch is not None
    processes.watch.fail(text, status)
    if processes.address.quiet and not text.startswith("failed"):  # a traceback is worth more than the launcher's line
        raise SystemExit(status)


def _explain(processes: Processes, error: LinkError) -> None:
    """A link failed: because its peer is gone (the watch finds out who was first), or because it is stalled."""
    assert processes.watch is not None
    if not error.late:
        processes.watch.await_cause()
    what = f"sent nothing for {processes.stall:.0f} s" if error.late else f"closed the connection ({error})"
    text = f"stopped: process {error.peer} {what}. Is it stalled? Raise --stall where a step may take that long."
    _fail(processes, text, 1)


def _agreed(order: Order) -> dict[str, Any]:
    """What must be the same in all processes; the sources stand for the version."""
    digest = hashlib.blake2b(digest_size=8)
    for file in sorted(Path(blocklocal.__file__).parent.rglob("*.py")):
        digest.update(file.read_bytes())
    model = order.config.model.model
    source, _, function = model.rpartition(":")
    if function and Path(source).is_file():
        digest.update(Path(source).read_bytes())
    launch = asdict(replace(order.launch, processes=1))
    place = {"output": str(order.output), "resume": order.resume, "checkpoint": order.checkpoint}
    versions = {"sources of blocklocal and of the model": digest.hexdigest(), "torch": torch.__version__}
    return {**order.config.flat(), **launch, **place, **versions}


def _own_device(name: str, address: Address) -> torch.device:
    """Every process of a host has a CUDA device of its own."""
    device = find_device(name)
    if device.type == "cuda" and device.index is None:
        if address.local_rank >= torch.cuda.device_count():
            raise InputError(
                f"{address.local_size} processes on a host with {torch.cuda.device_count()} CUDA device(s): start one "
                "process per device, or give --device cpu."
            )
        device = torch.device("cuda", address.local_rank)
        torch.cuda.set_device(device)
    return device


# --- what the first process decides


def _plan(processes: Processes, order: Order, device: torch.device) -> tuple[Plan, ImageSet, BlockLocal]:
    config, folder = order.config, order.output
    # Launched again after a failure (torchrun --max-restarts), the same command goes on with what is there.
    again = processes.address.attempt > 0 and (folder / "config.json").exists()
    if again and load_config(folder).flat() != config.flat():
        raise InputError(f"{folder} holds a run with other settings: choose another --output.")
    resume = order.resume or again
    if resume:
        load_unfinished(folder)
    else:
        check_free(folder)
    data = load_data(config)
    facts = Facts.of(data)
    if resume:
        check_facts(facts, folder, config)
    network = draw_network(config, facts, load_cuts(folder) if resume else None)
    check_rule(network.rule, network.learning, late=False)
    placement = _place(network, processes, order, facts, device)
    if resume:
        clear_leftovers(folder / CHECKPOINTS)
    else:
        create_run(folder, config, facts, network.split.starts)
    checkpoint = find_checkpoint(folder, order.checkpoint, required=False) if resume else None
    plan = Plan(
        facts,
        data.name,
        data.skipped,
        {name: getattr(data, name).labels for name in SPLITS},
        None if config.model.at else network.split.starts,
        placement,
        checkpoint.name if checkpoint else None,
    )
    if not order.quiet:
        print(placement.said(), flush=True)
    return plan, data, network


def _place(network: BlockLocal, processes: Processes, order: Order, facts: Facts, device: torch.device) -> Placement:
    """As the user says, or balanced by the measured time of the blocks' steps."""
    config, given = order.config, order.launch.placement
    if given or processes.stages > network.count:
        check_placement(given, network.count, processes.stages)
    size = max(2, config.data.batch_size // processes.replicas)
    x = torch.randn(size, facts.channels, facts.height, facts.width, device=device)
    if config.machine.channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    y = torch.randint(len(facts.classes), (size,), device=device)
    trial = copy.deepcopy(network)
    settle(trial, config, device)
    seconds = step_seconds(trial, x, y)
    return Placement(given, tuple(seconds)) if given else place(seconds, processes.stages)


# --- what every process does


def _train(processes: Processes, order: Order, device: torch.device, threads: int) -> dict[str, Any] | None:
    """This process's part of the training; the first process goes on to evaluate."""
    config, rank = order.config, processes.address.rank
    made = _plan(processes, order, device) if rank == 0 else None
    plan: Plan = processes.share(made[0] if made else None)
    network = made[2] if made else draw_network(config, plan.facts, plan.starts)
    first_sizes = network.message_sizes()
    recorder = _recorder(processes, order, plan, network.split.names, threads, device)
    stage = Stage(network, processes, plan.placement.sizes, queue=order.launch.queue, device=device, recorder=recorder)
    settle(stage, config, device)
    _introduce(processes, order, stage)
    data = made[1] if made else _data(config, plan, stage)
    names = network.split.names
    del made, network  # with the blocks that this process does not train
    stopped = _fit(processes, order, plan, stage, data, Books(names, first_sizes))
    if stopped:
        raise Interrupted(
            order.output, f"blocklocal train --resume {shlex.quote(str(order.output))}{_flags(processes)}"
        )
    del stage
    return _conclude(order, plan, data, device, threads) if rank == 0 else None


@dataclass(frozen=True)
class Books:
    """What the last process writes down besides records: names of all blocks, and |b| per block before training."""

    names: list[str]
    first_sizes: list[float | None]


def _fit(processes: Processes, order: Order, plan: Plan, stage: Stage, data: ImageSet, books: Books) -> bool:
    """Train this stage to the end, or until the user stops it; returns whether that is so. All processes leave."""
    config, device, signals = order.config, stage.device, StopSignals()

    def should_stop() -> bool:
        return processes.agree(signals.asked, device) if processes.first else stage.stopped()

    trainer = new_trainer(config, stage, should_stop)
    batches = training_batches(config, data, device, (processes.replica, processes.replicas))
    trainer.prepare(batches)
    if plan.checkpoint is not None:
        trainer.restore(load_checkpoint(order.output / CHECKPOINTS / plan.checkpoint, stage))
    relay = Relay(processes)
    saver = SharedCheckpoints(order.output / CHECKPOINTS, relay, config.machine.checkpoint_every)
    validation = None
    if len(data.validation):
        validation = stage.announced(evaluation_batches(config, data.validation, plan.facts, device), training=False)
    trainer.observers = [Records(relay, stage)]
    with signals, ExitStack() as open_books:
        if processes.last and processes.replica == 0:
            trainer.observers += _keep_books(order, plan, stage, trainer, books, len(batches), open_books)
        if processes.replica == 0:
            trainer.observers.append(saver)
        stopped = False
        try:
            trainer.fit(stage.announced(batches, training=True), validation)
        except Stopped:
            stopped = True
        stage.finish(stop=stopped)
        if stopped and processes.replica == 0:
            saver.save(trainer)
        stage.recorder.close()
        processes.meet("end")
    processes.leave()
    return stopped or (processes.first and signals.asked)


def _keep_books(
    order: Order, plan: Plan, stage: Stage, trainer: Trainer, books: Books, steps: int, opened: ExitStack
) -> list[Observer]:
    """Metrics, console, warnings and TensorBoard, as in a run in one process."""
    metrics = MetricsFile(order.output / METRICS)
    if plan.checkpoint is not None:
        metrics.write(resumed(trainer))
    progress = new_progress(order.config, plan.name, books.names, order.output, steps, trainer.step, order.quiet)
    opened.enter_context(progress)
    watchers: list[Observer] = [metrics, Console(stage, progress), Warnings(books.first_sizes, metrics, progress)]
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
        advice + _flags(processes),
    )


def _flags(processes: Processes) -> str:
    replicas = f" --replicas {processes.replicas}" if processes.replicas > 1 else ""
    return f" --processes {processes.address.size}{replicas}"


def _data(config: Config, plan: Plan, stage: Stage) -> ImageSet:
    """The image set where this process reads images; else its labels alone, which the first process has sent."""
    if stage.reads_images:
        data = load_data(config)
        if Facts.of(data) != plan.facts:
            raise InputError(
                f"process {stage.processes.address.rank} finds another data set under {config.data.data!r} than "
                "process 0: put the same files there."
            )
        return data
    f = plan.facts
    blank = {
        name: Images(torch.empty(len(y), f.channels, 0, 0, dtype=torch.uint8), y) for name, y in plan.labels.items()
    }
    return ImageSet(plan.name, classes=f.classes, mean=f.mean, std=f.std, skipped=plan.skipped, **blank)


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
