"""The training of one process's blocks: the loop, its checkpoints, and in the last process the observers."""

from contextlib import ExitStack
from dataclasses import dataclass

from blocklocal.parallel.decision import Decision, RunRequest
from blocklocal.parallel.linked import Linked
from blocklocal.parallel.processes import Processes
from blocklocal.parallel.relay import Records, Relay, SharedCheckpoints, SharedConsole, SharedEarlyStopping
from blocklocal.parallel.watch import ASKED
from blocklocal.runs.checkpoints import BEST, CHECKPOINTS, METRICS
from blocklocal.runs.facts import AnySet
from blocklocal.runs.origin import cycle_of
from blocklocal.runs.sets import evaluation_batches, training_batches
from blocklocal.runs.train import loggers_of, new_progress, new_trainer, resumed
from blocklocal.training.best import KeepBest
from blocklocal.training.callbacks import Callback
from blocklocal.training.checkpoint import load_checkpoint
from blocklocal.training.loggers import TensorBoard
from blocklocal.training.loop import Stopped, Trainer
from blocklocal.training.observers import MetricsFile, Warnings
from blocklocal.training.signals import StopSignals


@dataclass(frozen=True)
class LastRank:
    """What the observers of the last rank are told: names of all blocks, and |b| per block before training."""

    names: list[str]
    first_sizes: list[float | None]


def fit_share(
    processes: Processes,
    request: RunRequest,
    decision: Decision,
    stage: Linked,
    data: AnySet,
    told: LastRank,
    signals: StopSignals,
) -> bool:
    """Train this stage to the end, or until the user stops it. All processes leave.

    Args:
        told: what the observers of the last rank are told.

    Returns:
        Whether the user has stopped it.
    """
    config, device, watch = request.config, stage.device, processes.watch
    assert watch is not None

    def should_stop() -> bool:
        if processes.first:
            return processes.any_rank(signals.asked or watch.asked, device)
        if signals.asked and not watch.asked:  # asked here alone (a host that is taken away): the first stage decides
            processes.store.set(ASKED, "1")
        return stage.edges.stopped()

    trainer = new_trainer(config, stage, should_stop, cycle_of(request.output))
    batches = training_batches(config, data, device, (processes.replica, processes.replicas))
    trainer.prepare(batches)
    if decision.checkpoint is not None:
        trainer.restore(load_checkpoint(request.output / CHECKPOINTS / decision.checkpoint, stage))
    relay = Relay(processes)
    saver = SharedCheckpoints(
        request.output / CHECKPOINTS, relay, config.machine.checkpoint_every, shared=request.launch.shard
    )
    validation = None
    if len(data.validation):
        validation = stage.announced(
            evaluation_batches(config, data.validation, decision.facts, device), training=False
        )
    trainer.callbacks = [Records(relay, stage)]
    with ExitStack() as opened:
        if processes.last and processes.replica == 0:
            trainer.callbacks += _rank_observers(request, decision, stage, trainer, told, len(batches), opened)
        trainer.callbacks.append(saver)
        leads = processes.last and processes.replica == 0
        if leads and config.machine.keep == "best":
            trainer.callbacks.append(KeepBest(request.output / BEST, newest=request.output / CHECKPOINTS))
        if config.optimisation.patience is not None:
            trainer.callbacks.append(SharedEarlyStopping(relay, config.optimisation.patience, leads=leads))
        stopped = False
        try:
            trainer.fit(stage.announced(batches, training=True), validation)
        except Stopped:
            stopped = True
        stage.finish(stop=stopped)
        if stopped:
            saver.save(trainer)
        stage.recorder.close()
        processes.barrier("end")
    processes.leave()
    return stopped or (processes.address.rank == 0 and signals.asked)


def _rank_observers(
    request: RunRequest,
    decision: Decision,
    stage: Linked,
    trainer: Trainer,
    told: LastRank,
    steps: int,
    opened: ExitStack,
) -> list[Callback]:
    """Metrics, console, warnings and TensorBoard, as in a run in one process."""
    metrics = MetricsFile(request.output / METRICS)
    if decision.checkpoint is not None:
        metrics.write(resumed(trainer, decision.changes))
    progress = new_progress(
        request.config, decision.name, told.names, request.output, steps, trainer.step, request.quiet
    )
    opened.enter_context(progress)
    watchers: list[Callback] = [
        metrics,
        SharedConsole(stage, progress),
        Warnings(told.first_sizes, metrics, progress),
    ]
    if request.config.machine.tensorboard:
        board = TensorBoard(request.output / "tensorboard")
        opened.callback(board.close)
        watchers.append(board)
    return [*watchers, *loggers_of(request.config, request.output)]
