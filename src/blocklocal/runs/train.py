"""A run in progress: its trainer, and all that watches it."""

import math
import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from blocklocal._common.errors import Interrupted
from blocklocal.network.neighbours import Neighbours
from blocklocal.network.network import BlockLocal
from blocklocal.runs.build import RunContext, build_streamed
from blocklocal.runs.checkpoints import BEST, CHECKPOINTS, METRICS, TIMELINE, best_of
from blocklocal.runs.conclude import conclude
from blocklocal.runs.config import Config
from blocklocal.runs.looking import load_to_look
from blocklocal.runs.origin import cycle_of
from blocklocal.runs.saved import load_cuts
from blocklocal.runs.sets import evaluation_batches
from blocklocal.streaming.commits import Commits
from blocklocal.streaming.homes import FileHome
from blocklocal.streaming.settings import Streaming
from blocklocal.streaming.streamed import Streamed
from blocklocal.timeline.recorder import STEPS, who
from blocklocal.timeline.visits import VisitRecorder
from blocklocal.training.best import EarlyStopping, KeepBest
from blocklocal.training.callbacks import Callback
from blocklocal.training.checkpoint import load_checkpoint
from blocklocal.training.loggers import MLflow, TensorBoard, WeightsAndBiases
from blocklocal.training.loop import CHECK_EVERY, Record, Stopped, Trainer
from blocklocal.training.observers import Checkpoints, Console, MetricsFile, Warnings
from blocklocal.training.progress import NullProgress, Progress
from blocklocal.training.signals import StopSignals


def train_run(
    session: RunContext,
    folder: Path,
    checkpoint: Path | None,
    quiet: bool,
    wish: Callable[[], bool] | None,
    changes: Sequence[str] = (),
    account: Sequence[str] = (),
    timeline: int = STEPS,
) -> dict[str, Any]:
    """Train, and conclude.

    Args:
        checkpoint: to go on from; None to begin.
        wish: asked after every step whether to stop.
        changes: what is different from when the run was started.
        account: lines to show first.
        timeline: steps that are recorded where one block at a time is in memory.

    Returns:
        The summary.

    Raises:
        Interrupted: the run was stopped, and is saved.
    """
    config, network, batches = session.config, session.network, session.batches
    metrics = MetricsFile(folder / METRICS)
    saver = checkpoints_of(network, folder / CHECKPOINTS, config.machine.checkpoint_every)
    signals = StopSignals()
    trainer = new_trainer(config, network, lambda: signals.asked or (wish is not None and wish()), cycle_of(folder))
    trainer.prepare(batches)
    first_sizes = network.message_sizes()
    if checkpoint is not None:
        trainer.restore(load_checkpoint(checkpoint, network))
        metrics.write(resumed(trainer, changes))
    progress = new_progress(config, session.data.name, block_names(network), folder, len(batches), trainer.step, quiet)
    if isinstance(network, Streamed):
        network.watch, network.timeline = progress.work, visit_recorder(session, network, folder, timeline)
    remedy = f"blocklocal train --resume {shlex.quote(str(folder))}"
    if isinstance(network, Streamed):
        remedy += f" --visit {network.visit_steps}"
    board = TensorBoard(folder / "tensorboard") if config.machine.tensorboard else None
    # The checkpoint comes last: what it says is done has been written by all others, and is written again if it fails.
    logs = loggers_of(config, folder)
    watchers = [metrics, Console(progress), Warnings(first_sizes, metrics, progress), board, *logs, saver]
    trainer.callbacks = [watcher for watcher in watchers if watcher is not None] + best_watchers(config, folder)
    validation = None
    if len(session.data.validation):
        validation = evaluation_batches(config, session.data.validation, session.facts, session.device)
    with signals, progress:
        for line in account:
            progress.note(line)
        try:
            trainer.fit(batches, validation)
        except Stopped:
            saver.save(trainer)
            raise Interrupted(folder, remedy) from None
        finally:
            if board is not None:
                board.close()
            if isinstance(network, Streamed):
                network.timeline.close()
        if signals.asked:  # after the last step; the last epoch's checkpoint is there, and --resume only evaluates
            raise Interrupted(folder, remedy)
    return conclude(with_best(session, folder), folder, trainer)


def loggers_of(config: Config, folder: Path) -> list[Callback]:
    """What sends the figures of a run elsewhere, under the name of its folder, with its settings."""
    settings, found = config.flat(), list[Callback]()
    if "wandb" in config.machine.loggers:
        found.append(WeightsAndBiases(project="blocklocal", name=folder.name, dir=str(folder), config=settings))
    if "mlflow" in config.machine.loggers:
        found.append(MLflow(settings, run_name=folder.name))
    return found


def best_watchers(config: Config, folder: Path) -> list[Callback]:
    """What looks for the best epoch of a run; they come after what saves it."""
    found: list[Callback] = []
    if config.machine.keep == "best":
        found.append(KeepBest(folder / BEST, newest=folder / CHECKPOINTS))
    if config.optimisation.patience is not None:
        found.append(EarlyStopping(config.optimisation.patience))
    return found


def with_best(session: RunContext, folder: Path) -> RunContext:
    """The same with the weights of the best epoch, where the run keeps them."""
    config, network, best = session.config, session.network, best_of(folder)
    if config.machine.keep != "best" or best is None:
        return session
    if isinstance(network, Streamed):
        network.close()
        streaming, starts = Streaming(network.visit_steps), load_cuts(folder)
        network = build_streamed(config, session.facts, session.device, starts, streaming, best.parent)
    load_to_look(best, network, config)
    return replace(session, network=network)


def visit_recorder(session: RunContext, network: Streamed, folder: Path, steps: int) -> VisitRecorder:
    """What writes the timeline of a run that has one block at a time in memory."""
    names = dict(enumerate(block_names(network)))
    process = who(names, session.threads, session.device, visit=network.visit_steps)
    return VisitRecorder(folder / TIMELINE / "process-0.jsonl", process, steps=steps)


def checkpoints_of(network: Neighbours, folder: Path, every: int | None) -> Checkpoints:
    """What saves a run: where blocks rest in the run's folder, every chunk of steps is saved as it is."""
    if isinstance(network, Streamed) and isinstance(network.home, FileHome):
        return Commits(folder)
    return Checkpoints(folder, every)


def new_trainer(config: Config, network: Neighbours, should_stop: Callable[[], bool], first_epoch: int = 0) -> Trainer:
    """The trainer of a configuration, whose schedule begins in `first_epoch`."""
    o = config.optimisation
    return Trainer(
        network,
        optimizer=o.build(),
        epochs=o.epochs,
        schedule=o.build_schedule(),
        should_stop=should_stop,
        look_every=math.gcd(CHECK_EVERY, config.machine.checkpoint_every or 0),
        accumulate=o.accumulate,
        first_epoch=first_epoch,
    )


def resumed(trainer: Trainer, changes: Sequence[str] = ()) -> Record:
    """What metrics.jsonl says where a run goes on, and what is different from then on."""
    return {"event": "resumed", "epoch": trainer.epoch + 1, "step": trainer.step, "changes": list(changes)}


def new_progress(
    config: Config, data: str, names: Sequence[str], folder: Path, steps: int, done: int, quiet: bool
) -> Progress | NullProgress:
    """The console of a run, with `steps` per epoch, of which `done` are done already."""
    if quiet:
        return Progress.silent()
    title = f"{config.learning.rule} · {config.model.model} · {data} · seed {config.machine.seed} → {folder}"
    return Progress(title, list(names), config.optimisation.epochs, steps, start_step=done)


def block_names(network: BlockLocal | Streamed) -> list[str]:
    return list(network.split.names) if len(network.learners) == len(network.split.names) else ["all blocks"]
