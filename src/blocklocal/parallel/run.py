"""One process's part of a run that several share: `training.run` with a stage in the place of the network.

The first process loads the images, measures and decides; the last one, which nobody waits for, keeps the observers
(`relay`). When training is over, the first one evaluates and reports as a run in one process does.
"""

import os
import shlex
import socket
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from blocklocal._common.errors import InputError, Interrupted
from blocklocal._common.extras import needs
from blocklocal.data import Images, ImageSet
from blocklocal.data.samples import Samples, SampleSet
from blocklocal.network.network import BlockLocal
from blocklocal.parallel.address import Address
from blocklocal.parallel.decision import Decision, RunRequest, broadcast_decision, decide, own_store, run_fingerprint
from blocklocal.parallel.fit import LastRank, fit_share
from blocklocal.parallel.linked import Linked
from blocklocal.parallel.placement import block_range
from blocklocal.parallel.processes import Processes, default_threads, join, own_device
from blocklocal.parallel.stage import Stage
from blocklocal.parallel.streamed_stage import StreamedStage
from blocklocal.parallel.trouble import describe_failure, report_failure
from blocklocal.parallel.watch import register_rank
from blocklocal.parallel.wire import LinkError, is_lost_connection
from blocklocal.runs.build import RunContext, build_network, build_on_cpu, build_streamed
from blocklocal.runs.checkpoints import TIMELINE, checkpoint_to_look, find_checkpoint
from blocklocal.runs.conclude import conclude
from blocklocal.runs.config import Config
from blocklocal.runs.facts import AnySet, DatasetInfo
from blocklocal.runs.looking import load_to_look
from blocklocal.runs.machine import compile_for_training, prepare_for_device, set_threads
from blocklocal.runs.origin import cycle_of
from blocklocal.runs.sets import load_data, training_batches
from blocklocal.runs.train import new_trainer
from blocklocal.runs.usual import suited
from blocklocal.streaming.place import clear_store
from blocklocal.streaming.streamed import Streamed
from blocklocal.timeline.recorder import Recorder, who
from blocklocal.timeline.visits import VisitRecorder
from blocklocal.training.checkpoint import open_files
from blocklocal.training.signals import StopSignals


@needs("cli", "data", "report")
def train_share(address: Address, request: RunRequest) -> dict[str, Any] | None:
    """Train this process's blocks; the first process returns the summary of the run, the others None.

    Where something goes wrong elsewhere, the process ends (see `watch`).

    Raises:
        InputError: something went wrong here.
    """
    config = request.config
    with StopSignals() as signals:
        threads = set_threads(config.machine.threads or default_threads(address))
        device = own_device(config.machine.device, address)
        try:
            processes = join(
                address,
                replicas=request.launch.replicas,
                device=device,
                settings=run_fingerprint(request),
                rendezvous_timeout=request.launch.rendezvous_timeout,
                message_timeout=request.launch.message_timeout,
            )
        except InputError as error:
            if address.quiet:  # it was reported, and the launcher says it once for all
                raise SystemExit(2) from error
            raise
        try:
            return _train(processes, request, device, threads, signals)
        except Interrupted:
            raise
        except BaseException as error:
            status = report_failure(processes, error)
            expected = isinstance(error, InputError | LinkError | OSError) or is_lost_connection(error)
            if processes.address.quiet and expected:  # else a traceback is worth more than the launcher's line
                raise SystemExit(status) from error
            if isinstance(error, LinkError):
                raise InputError(describe_failure(processes, error)[0]) from error
            raise


def _train(
    processes: Processes, request: RunRequest, device: torch.device, threads: int, signals: StopSignals
) -> dict[str, Any] | None:
    """This process's part of the training; the first process goes on to evaluate."""
    with ExitStack() as kept:  # the run's lock, in the first process
        made = decide(processes, request, device, kept) if processes.address.rank == 0 else None
        return _train_planned(processes, request, device, threads, signals, made)


def _train_planned(
    processes: Processes,
    request: RunRequest,
    device: torch.device,
    threads: int,
    signals: StopSignals,
    made: tuple[Decision, AnySet, BlockLocal | Streamed] | None,
) -> dict[str, Any] | None:
    """made: the decision and what the first process has loaded for it."""
    decision = broadcast_decision(processes, made[0] if made else None)
    request = replace(request, config=suited(request.config, decision.facts))
    config, rank = request.config, processes.address.rank
    if config.machine.compile and request.streaming.wanted:
        raise InputError("blocks that come and go are not compiled: leave out --compile, or --visit.")
    network = made[2] if made else _build(request, decision, device)
    first_sizes = network.message_sizes()
    process = _who(processes, request, decision, network.split.names, threads, device)
    stage = _stage(network, processes, request, decision, process, device)
    _register(processes, request, stage)
    data = made[1] if made else _data(config, decision, stage, request.output)
    names = network.split.names
    del made, network  # with the blocks that this process does not train
    try:
        stopped = fit_share(processes, request, decision, stage, data, LastRank(names, first_sizes), signals)
    finally:
        if isinstance(stage, StreamedStage):
            stage.close()
            clear_store(own_store(request, processes))
    if stopped:
        raise Interrupted(
            request.output, f"blocklocal train --resume {shlex.quote(str(request.output))}{_flags(processes, request)}"
        )
    del stage
    return _conclude(request, decision, data, device, threads) if rank == 0 else None


def _build(request: RunRequest, decision: Decision, device: torch.device) -> BlockLocal | Streamed:
    """The network that was decided on, where another process has decided."""
    if not request.streaming.wanted:
        return build_on_cpu(request.config, decision.facts, decision.starts)
    return build_streamed(
        request.config, decision.facts, device, decision.starts, request.streaming.looked_at, request.output
    )


def _stage(
    network: BlockLocal | Streamed,
    processes: Processes,
    request: RunRequest,
    decision: Decision,
    process: dict[str, Any],
    device: torch.device,
) -> Stage | StreamedStage:
    """The blocks of this process, linked to those of the others.

    Args:
        process: what the timeline says of this process.
    """
    config = request.config
    file, steps = request.output / TIMELINE / f"process-{processes.address.rank}.jsonl", request.launch.timeline
    if isinstance(network, BlockLocal):
        stage = Stage(
            network,
            processes,
            decision.placement.sizes,
            max_in_flight=request.launch.max_in_flight,
            shard=request.launch.shard,
            device=device,
            recorder=Recorder(file, process, steps=steps),
        )
        prepare_for_device(stage, config, device)
        compile_for_training(stage, config, device)
        return stage
    spread = partial(
        StreamedStage,
        processes=processes,
        placement=decision.placement.sizes,
        # The last block sends the messages of a whole visit in a row: with room for them it need not wait.
        max_in_flight=max(request.launch.max_in_flight, request.streaming.visit or 1),
        recorder=VisitRecorder(file, process, steps=steps),
    )
    store = own_store(request, processes)
    clear_store(store)  # of a launch that was killed: a run goes on from its checkpoints
    return build_streamed(
        config, decision.facts, device, decision.starts, request.streaming, store, make=spread, keep=1
    )


def _who(
    processes: Processes, request: RunRequest, decision: Decision, names: list[str], threads: int, device: torch.device
) -> dict[str, Any]:
    """What the timeline says of this process."""
    sizes, visit = decision.placement.sizes, request.streaming.visit or 0
    first = sum(sizes[: processes.stage])
    held = {k: names[k] for k in range(first, first + sizes[processes.stage])}
    rank, replica, stage = processes.address.rank, processes.replica, processes.stage
    return who(held, threads, device, process=rank, replica=replica, stage=stage, visit=visit)


def _register(processes: Processes, request: RunRequest, stage: Linked) -> None:
    blocks = block_range(stage.learners[0].index + 1, len(stage.learners))
    advice = f"Go on from the last checkpoint with: blocklocal train --resume {shlex.quote(str(request.output))}"
    register_rank(
        processes.store,
        processes.address.rank,
        f"{blocks}, pid {os.getpid()} on {socket.gethostname()}",
        advice + _flags(processes, request),
    )


def _flags(processes: Processes, request: RunRequest) -> str:
    replicas = f" --replicas {processes.replicas}" if processes.replicas > 1 else ""
    replicas += " --shard" if request.launch.shard else ""
    launched = f" --processes {processes.address.size}" if processes.address.quiet else ""
    replicas += f" --visit {request.streaming.visit}" if request.streaming.visit else ""
    return launched + replicas + ("" if launched else " (under torchrun as before)")


def _data(config: Config, decision: Decision, stage: Linked, run: Path) -> AnySet:
    """The data where this process reads them, a text anywhere; else the labels alone, which the first one has sent."""
    if stage.reads_images or decision.facts.text is not None:
        data = load_data(config, run)
        same = all(torch.equal(getattr(data, name).labels, labels) for name, labels in decision.labels.items())
        if DatasetInfo.of(data) != decision.facts or not same:
            raise InputError(
                f"process {stage.processes.address.rank} finds another data set under {config.data.data!r} than "
                "process 0: put the same files there."
            )
        return data
    f = decision.facts
    if f.kind != "images" and f.answers is not None:
        known = (f.mean, f.std) if f.kind == "series" else ((), ())
        empty = {name: Samples(torch.empty(len(y), 0), y) for name, y in decision.labels.items()}
        return SampleSet(
            decision.name,
            train=empty["train"],
            validation=empty["validation"],
            test=empty["test"],
            answers=f.answers,
            features=f.features,
            mean=known[0],
            std=known[1],
        )
    blank = {
        name: Images(torch.empty(len(y), f.channels, 0, 0, dtype=torch.uint8), y) for name, y in decision.labels.items()
    }
    return ImageSet(
        decision.name,
        classes=f.classes,
        mean=f.mean,
        std=f.std,
        skipped=decision.skipped,
        account=(),
        answers=f.answers,
        **blank,
    )


def _conclude(
    request: RunRequest, decision: Decision, data: AnySet, device: torch.device, threads: int
) -> dict[str, Any]:
    """Evaluate and report with the whole network, from the last checkpoint."""
    config, folder = request.config, request.output
    path = checkpoint_to_look(folder) if config.machine.keep == "best" else find_checkpoint(folder)
    assert path is not None
    if request.streaming.wanted:
        in_files = replace(request.streaming, store="", boundary_cache="ram")
        network = build_streamed(config, decision.facts, device, decision.starts, in_files, path.parent)
    else:
        network = build_network(config, decision.facts, device, decision.starts)
    trainer = new_trainer(config, network, lambda: False, cycle_of(folder))
    trainer.restore(load_to_look(path, network, config))
    newest = find_checkpoint(folder)
    if newest is not None and newest != path:  # its records are of all epochs
        trainer.records = open_files(newest).state()[0]["records"]
    session = RunContext(
        config,
        data,
        decision.facts,
        network,
        training_batches(config, data, device),
        device,
        threads,
        decision.placement.sizes,
        request.launch.replicas,
    )
    return conclude(session, folder, trainer)
