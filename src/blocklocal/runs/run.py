"""One run: a folder that holds its settings, metrics, checkpoints, summary and report."""

import json
import logging
import math
import shlex
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from blocklocal._common.errors import InputError, Interrupted
from blocklocal._common.extras import needs
from blocklocal._common.files import is_there, write_text
from blocklocal.network.neighbours import Neighbours
from blocklocal.network.network import BlockLocal
from blocklocal.runs.build import (
    AnySet,
    DatasetInfo,
    RunContext,
    build_network,
    build_streamed,
    evaluation_batches,
    find_device,
    load_data,
    open_session,
    suited,
)
from blocklocal.runs.code import keep_code
from blocklocal.runs.conclude import REPORT, conclude, show
from blocklocal.runs.config import Config, load_config
from blocklocal.runs.lock import held
from blocklocal.runs.looking import BEST, best_of, check_watched, load_to_look
from blocklocal.runs.origin import (
    Origin,
    adds_epochs,
    check_origin,
    complete_extension,
    cycle_of,
    edited_settings,
    extend,
    is_finished,
    open_settings,
)
from blocklocal.runs.planning import check_planned, plan_run
from blocklocal.runs.saved import CUTS, FACTS, SUMMARY, load_cuts, load_facts, read_summary
from blocklocal.schemas.run import check_run_folder
from blocklocal.streaming.allocator import give_back_at_once
from blocklocal.streaming.commits import Commits
from blocklocal.streaming.homes import FileHome
from blocklocal.streaming.place import check_new_store, check_same_store, link_store, store_folder
from blocklocal.streaming.plan_table import summary_lines
from blocklocal.streaming.settings import Streaming
from blocklocal.streaming.streamed import Streamed
from blocklocal.timeline.recorder import STEPS, who
from blocklocal.timeline.visits import VisitRecorder
from blocklocal.training.best import EarlyStopping, KeepBest
from blocklocal.training.callbacks import Callback
from blocklocal.training.checkpoint import load_checkpoint
from blocklocal.training.checkpoint_folder import list_checkpoints
from blocklocal.training.loggers import MLflow, TensorBoard, WeightsAndBiases
from blocklocal.training.loop import CHECK_EVERY, Record, Stopped, Trainer
from blocklocal.training.observers import Checkpoints, Console, MetricsFile, Warnings
from blocklocal.training.progress import NullProgress, Progress
from blocklocal.training.signals import StopSignals

log = logging.getLogger("blocklocal")

CHECKPOINTS, METRICS, TIMELINE = "checkpoints", "metrics.jsonl", "timeline"


@needs("cli", "data", "report")
def start_run(
    config: Config,
    output: Path,
    *,
    quiet: bool = False,
    data: AnySet | None = None,
    should_stop: Callable[[], bool] | None = None,
    streaming: Streaming | None = None,
    timeline: int = STEPS,
    choose_blocks: bool = False,
) -> dict[str, Any]:
    """Train anew into the folder `output`, which must not exist.

    Args:
        data: an image set loaded before, for several runs on the same one.
        should_stop: asked after every step, beside the signals; the run is then saved as if the user had stopped it.
        streaming: how blocks come into memory and go, where one at a time is to be there.
        timeline: steps that are recorded then.
        choose_blocks: whether `streaming.memory` decides the number of blocks too.

    Returns:
        The summary.

    Raises:
        InputError: there is something at `output`, or the configuration does not fit the data.
        Interrupted: the run was stopped, and is saved.
    """
    check_free(output)
    streaming = streaming or Streaming()
    check_new_store(streaming.store)
    plan: list[str] = []
    if streaming.wanted:
        data = data or load_data(config)
        config = suited(config, DatasetInfo.of(data))
        config, streaming, plan = _planned(config, data, streaming, output / CHECKPOINTS, choose_blocks=choose_blocks)
    session = open_session(config, data, streaming=streaming, checkpoints=output / CHECKPOINTS)
    create_run(output, session, streaming.store)
    with held(output):
        account = session.data.account if data is None or plan else ()
        return _train(session, output, None, quiet, should_stop, account=[*account, *plan], timeline=timeline)


def _planned(
    config: Config,
    data: AnySet,
    streaming: Streaming,
    folder: Path,
    *,
    choose_blocks: bool = False,
    starts: Sequence[int] | None = None,
) -> tuple[Config, Streaming, list[str]]:
    """Settings with the chosen blocks, how they are streamed, and lines that say what that needs."""
    if streaming.memory:
        give_back_at_once()
    device = find_device(config.machine.device)
    facts, count = DatasetInfo.of(data), len(data.train)
    planned = plan_run(config, facts, streaming, device, samples=count, choose_blocks=choose_blocks, starts=starts)
    check_planned(planned, device, store_folder(streaming.store) or folder)
    return planned.config, planned.streaming, summary_lines(planned.plan)


def create_run(output: Path, session: RunContext, store: str = "") -> None:
    """The folder appears with its settings in it, so that a run stopped at any moment can be resumed.

    Args:
        store: where the blocks of a streamed run rest (`Streaming.store`).

    Raises:
        InputError: there is something in its place.
    """
    check_free(output)
    config = session.config
    check_watched(config)
    draft = output.with_name(f".{output.name}-new")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        config.save(draft / "config.json")
        write_text(draft / FACTS, json.dumps(session.facts.flat()))
        if config.model.balance == "time" and not config.model.at:  # measured anew, the cuts could be others
            write_text(draft / CUTS, json.dumps(list(session.network.split.starts)))
        code = keep_code(draft, config.model.model)
        Origin.now(config, session.data, session.device, session.replicas, code).save(draft)
        link_store(store, draft / CHECKPOINTS)
        draft.rename(output)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def check_free(output: Path) -> None:
    """Raise InputError where a run folder would overwrite something."""
    if output.exists():
        raise InputError(
            f"{output} exists already and is not overwritten: choose another --output, or --resume {output}."
        )


@needs("cli", "data", "report")
def resume_run(
    folder: Path,
    *,
    checkpoint: str | None = None,
    epochs: int | None = None,
    quiet: bool = False,
    should_stop: Callable[[], bool] | None = None,
    trust: bool = False,
    accept_changes: bool = False,
    streaming: Streaming | None = None,
    timeline: int = STEPS,
) -> dict[str, Any]:
    """Go on with a stopped run.

    A finished run that was stopped before its report was written gets its report.

    Args:
        checkpoint: default: the newest.
        epochs: train a finished run longer, see `extend`.
        trust: the code of a user's own model, which the run names, may run.
        accept_changes: go on also where data, settings or versions are not those that the run was started with.
        timeline: as of `start_run`.

    Returns:
        The summary.

    Raises:
        InputError: there is nothing to do, or it needs `trust` or `accept_changes`.
        Interrupted: the run was stopped, and is saved.
    """
    check_run(folder)  # what is no run gets no lock
    if streaming is not None:
        check_same_store(streaming.store, folder / CHECKPOINTS)
    with held(folder):
        more = adds_epochs(folder, epochs)
        if is_finished(folder) and not more:
            return _show_again(folder, trust=trust, streaming=streaming)
        path = checkpoint_to_resume(folder, checkpoint)
        config, data, plan = open_settings(folder, trust=trust), None, []
        if streaming is not None and streaming.wanted:
            data = load_data(config)
            store = (folder / CHECKPOINTS).resolve()
            config, streaming, plan = _planned(config, data, streaming, store, starts=load_cuts(folder))
        session = open_session(
            config, data, starts=load_cuts(folder), streaming=streaming, checkpoints=folder / CHECKPOINTS
        )
        changes = check_same(session, folder, accept_changes=accept_changes)
        session = replace(session, config=add_epochs(folder, session.config, epochs))
        return _train(session, folder, path, quiet, should_stop, changes, [*session.data.account, *plan], timeline)


def add_epochs(folder: Path, config: Config, epochs: int | None) -> Config:
    """The settings that a run goes on with, once all is checked: extended to `epochs` where that is asked for."""
    if epochs is not None and adds_epochs(folder, epochs):
        extend(folder, epochs)
    complete_extension(folder)  # one that a kill has cut off
    return config if epochs is None else config.edit(epochs=epochs)


def _show_again(folder: Path, *, trust: bool, streaming: Streaming | None = None) -> dict[str, Any]:
    """The report of a finished run that has none."""
    if (folder / REPORT).exists():
        raise InputError(
            f"the run {folder} is finished: there is nothing to resume. To train it longer, give --epochs with more "
            "than it has."
        )
    config = open_settings(folder, trust=trust)
    if streaming is not None and streaming.wanted:
        streaming = Streaming(streaming.visit or 1)
    path = checkpoint_to_look(folder)
    session = open_session(config, starts=load_cuts(folder), streaming=streaming, checkpoints=path.parent)
    load_to_look(path, session.network, config)
    show(session, folder)
    return read_summary(folder)


def check_run(folder: Path) -> None:
    """Raise InputError where there is no run."""
    check_run_folder(folder)
    load_config(folder)


def check_same(session: RunContext, folder: Path, *, accept_changes: bool = False) -> list[str]:
    """What is different from when the run was started and is accepted; anything else is refused."""
    check_facts(session.facts, folder, session.config)
    return check_origin(folder, session.data, session.device, session.replicas, accept_changes=accept_changes)


def check_facts(facts: DatasetInfo, folder: Path, config: Config) -> None:
    """Raise InputError where the data set is not the one that a run was started on."""
    if facts != load_facts(folder):
        raise InputError(
            f"the data set {config.data.data} is not what the run {folder} was started on (classes, size or pixels "
            "differ): put the old one back, or train anew."
        )


def find_checkpoint(folder: Path, name: str | None = None, *, required: bool = True) -> Path | None:
    """The newest complete checkpoint of a run, or the one called `name`. Refuses where a `required` one is missing."""
    known = list_checkpoints(folder / CHECKPOINTS)
    if name is not None:
        chosen = [path for path in known if path.name == name]
        if not chosen:
            names = ", ".join(path.name for path in known) or "none"
            raise InputError(f"{folder} has no checkpoint {name!r}. There: {names}.")
        return chosen[0]
    if not known and required:
        raise (
            _lost(folder)
            if has_trained(folder)
            else InputError(
                f"{folder} holds no complete checkpoint: train it first (blocklocal train --resume {folder})."
            )
        )
    return known[-1] if known else None


def checkpoint_to_look(folder: Path, name: str | None = None) -> Path:
    """The checkpoint that is evaluated and predicts: the one called `name`, that of the best epoch, or the newest."""
    best = best_of(folder)
    if best is not None and name in (None, BEST, best.name):
        return best
    path = find_checkpoint(folder, name)
    assert path is not None
    return path


def checkpoint_to_resume(folder: Path, name: str | None = None) -> Path | None:
    """The checkpoint that a run goes on from; None where it was stopped before its first one, and begins anew.

    Raises:
        InputError: the run has had checkpoints, and they are gone.
    """
    path = find_checkpoint(folder, name, required=False)
    if path is None and has_trained(folder):
        raise _lost(folder)
    return path


def has_trained(folder: Path) -> bool:
    """Whether a run has had a checkpoint: it has a result, or has written down epochs.

    An epoch is written down just before its checkpoint: where the first one could not be written (a full disk), the
    folder of checkpoints is there and empty.
    """
    if is_there(folder / SUMMARY):
        return True
    epochs = MetricsFile.epochs(folder / METRICS)
    return epochs > 1 or (epochs == 1 and not is_there(folder / CHECKPOINTS))


def _lost(folder: Path) -> InputError:
    return InputError(
        f"the run {folder} has been trained, and {folder / CHECKPOINTS} holds no complete checkpoint of it: its "
        "weights are gone. Put that folder back; or train anew, with the same settings, into another folder: "
        f"blocklocal train --config {folder / 'config.json'} --output FOLDER."
    )


def load_network(
    folder: Path,
    checkpoint: str | None = None,
    device: str | None = None,
    *,
    trust: bool = False,
    visit: int | None = None,
) -> tuple[Config, DatasetInfo, BlockLocal | Streamed]:
    """A run's trained network, without its data set. With `trust` the code of a user's own model may run."""
    config, facts = open_settings(folder, trust=trust), load_facts(folder)
    edited = edited_settings(folder)
    if edited:
        log.warning("%s is not looked at as it was trained: %s", folder, "; ".join(edited))
    where, starts = find_device(device or config.machine.device), load_cuts(folder)
    path = checkpoint_to_look(folder, checkpoint)
    if visit is None:
        network: BlockLocal | Streamed = build_network(config, facts, where, starts)
    else:
        network = build_streamed(config, facts, where, starts, Streaming(visit), path.parent, trains=False)
    load_to_look(path, network, config)
    return config, facts, network


def _train(
    session: RunContext,
    folder: Path,
    checkpoint: Path | None,
    quiet: bool,
    wish: Callable[[], bool] | None,
    changes: Sequence[str] = (),
    account: Sequence[str] = (),
    timeline: int = STEPS,
) -> dict[str, Any]:
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
