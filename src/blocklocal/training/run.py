"""One run: a folder that holds its settings, metrics, checkpoints, summary and report."""

import json
import math
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from blocklocal.config import Config, load_config
from blocklocal.data import ImageSet
from blocklocal.errors import InputError
from blocklocal.files import write_text
from blocklocal.network import BlockLocal
from blocklocal.training.build import (
    Facts,
    Session,
    build_network,
    evaluation_batches,
    find_device,
    normalise,
    open_session,
)
from blocklocal.training.checkpoint import list_checkpoints, load_checkpoint
from blocklocal.training.examples import choose_examples
from blocklocal.training.loop import CHECK_EVERY, Stopped, Trainer
from blocklocal.training.observers import Checkpoints, Console, MetricsFile, TensorBoard, Warnings
from blocklocal.training.progress import NullProgress, Progress
from blocklocal.training.signals import StopSignals
from blocklocal.training.summary import summarise

CHECKPOINTS = "checkpoints"


class Interrupted(Exception):
    """A run was stopped by the user and saved; `folder` is where to go on, `remedy` how."""

    def __init__(self, folder: Path, remedy: str | None = None):
        how = remedy or f"blocklocal train --resume {shlex.quote(str(folder))}"
        super().__init__(f"stopped and saved. Go on with: {how}")
        self.folder = folder


def start_run(
    config: Config,
    output: Path,
    *,
    quiet: bool = False,
    data: ImageSet | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Train anew into the folder `output`, which must not exist; returns the summary.

    data: an image set loaded before, for several runs on the same one. should_stop: asked after every step, beside the
    signals; the run is then saved as if the user had stopped it, and Interrupted is raised.
    """
    if output.exists():
        raise InputError(
            f"{output} exists already and is not overwritten: choose another --output, or --resume {output}."
        )
    session = open_session(config, data)
    _create(output, session)
    return _train(session, output, None, quiet, should_stop)


def _create(output: Path, session: Session) -> None:
    """The folder appears with its settings in it, so that a run stopped at any moment can be resumed."""
    draft = output.with_name(f".{output.name}-new")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        session.config.save(draft / "config.json")
        write_text(draft / "data.json", json.dumps(session.facts.flat()))
        draft.rename(output)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def resume_run(
    folder: Path,
    *,
    checkpoint: str | None = None,
    quiet: bool = False,
    should_stop: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Go on with a stopped run from its newest checkpoint (or a named one); returns the summary."""
    if not folder.is_dir():
        raise InputError(f"there is no run folder {folder}.")
    config = load_config(folder)
    if (folder / "summary.json").exists():
        raise InputError(f"the run {folder} is finished: there is nothing to resume.")
    path = find_checkpoint(folder, checkpoint, required=False)
    session = open_session(config)
    if session.facts != load_facts(folder):
        raise InputError(
            f"the data set {config.data.data} is not what the run {folder} was started on (classes, size or pixels "
            "differ): put the old one back, or train anew."
        )
    return _train(session, folder, path, quiet, should_stop)


def find_checkpoint(folder: Path, name: str | None = None, *, required: bool = True) -> Path | None:
    """The newest complete checkpoint of a run, or the one called `name`."""
    known = list_checkpoints(folder / CHECKPOINTS)
    if name is not None:
        chosen = [path for path in known if path.name == name]
        if not chosen:
            names = ", ".join(path.name for path in known) or "none"
            raise InputError(f"{folder} has no checkpoint {name!r}. There: {names}.")
        return chosen[0]
    if not known and required:
        raise InputError(f"{folder} holds no complete checkpoint: train it first (blocklocal train --resume {folder}).")
    return known[-1] if known else None


def load_facts(folder: Path) -> Facts:
    """What a run knows of its data set."""
    try:
        return Facts.load(json.loads((folder / "data.json").read_text()))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{folder / 'data.json'} cannot be read: is {folder} a run folder?") from error


def load_network(
    folder: Path, checkpoint: str | None = None, device: str | None = None
) -> tuple[Config, Facts, BlockLocal]:
    """A run's trained network, without its data set."""
    config, facts = load_config(folder), load_facts(folder)
    network = build_network(config, facts, find_device(device or config.machine.device))
    path = find_checkpoint(folder, checkpoint)
    assert path is not None
    load_checkpoint(path, network, learners=False)
    return config, facts, network


def _train(
    session: Session, folder: Path, checkpoint: Path | None, quiet: bool, wish: Callable[[], bool] | None
) -> dict[str, Any]:
    config, network, batches = session.config, session.network, session.batches
    metrics = MetricsFile(folder / "metrics.jsonl")
    every = config.machine.checkpoint_every
    saver = Checkpoints(folder / CHECKPOINTS, every)
    signals = StopSignals()
    trainer = Trainer(
        network,
        optimizer=config.optimisation.build(),
        epochs=config.optimisation.epochs,
        schedule=config.optimisation.schedule,
        should_stop=lambda: signals.asked or (wish is not None and wish()),
        look_every=math.gcd(CHECK_EVERY, every or 0),
    )
    trainer.prepare(batches)
    first_sizes = network.message_sizes()
    if checkpoint is not None:
        trainer.restore(load_checkpoint(checkpoint, network))
        metrics.write({"event": "resumed", "epoch": trainer.epoch + 1, "step": trainer.step})
    progress = _progress(session, folder, len(batches), trainer.step, quiet)
    board = TensorBoard(folder / "tensorboard") if config.machine.tensorboard else None
    # The checkpoint comes last: what it says is done has been written by all others, and is written again if it fails.
    watchers = [metrics, Console(progress), Warnings(first_sizes, metrics, progress), board, saver]
    trainer.observers = [watcher for watcher in watchers if watcher is not None]
    validation = None
    if len(session.data.validation):
        validation = evaluation_batches(config, session.data.validation, session.facts, session.device)
    with signals, progress:
        try:
            trainer.fit(batches, validation)
        except Stopped:
            saver.save(trainer)
            raise Interrupted(folder) from None
        finally:
            if board is not None:
                board.close()
        if signals.asked:  # after the last step; the last epoch's checkpoint is there, and --resume only evaluates
            raise Interrupted(folder)
    return _finish(session, folder, trainer)


def _progress(session: Session, folder: Path, steps: int, done: int, quiet: bool) -> Progress | NullProgress:
    if quiet:
        return Progress.silent()
    c = session.config
    title = f"{c.learning.rule} · {c.model.model} · {session.data.name} · seed {c.machine.seed} → {folder}"
    names = block_names(session.network)
    return Progress(title, names, c.optimisation.epochs, steps, start_step=done)


def block_names(network: BlockLocal) -> list[str]:
    return list(network.split.names) if len(network.units) == len(network.split.names) else ["all blocks"]


def _finish(session: Session, folder: Path, trainer: Trainer) -> dict[str, Any]:
    """Evaluate once on the test split, and write examples, summary and report."""
    examples = choose_examples(
        session.network, session.data, lambda pixels: normalise(pixels.to(session.device), session.facts)
    )
    write_text(folder / "examples.json", json.dumps(examples))
    summary = summarise(session, trainer)
    write_text(folder / "summary.json", json.dumps(summary, indent=2) + "\n")
    from blocklocal.report import write_report

    write_report(folder)
    return summary
