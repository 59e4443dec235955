"""One run: a folder that holds its settings, metrics, checkpoints, summary and report."""

import json
import math
import shlex
import shutil
from collections.abc import Callable, Sequence
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
from blocklocal.training.learner import Learner
from blocklocal.training.loop import CHECK_EVERY, Record, Stopped, Trainer
from blocklocal.training.observers import Checkpoints, Console, MetricsFile, TensorBoard, Warnings
from blocklocal.training.progress import NullProgress, Progress
from blocklocal.training.signals import StopSignals
from blocklocal.training.summary import summarise

CHECKPOINTS, METRICS, CUTS = "checkpoints", "metrics.jsonl", "cuts.json"


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
    check_free(output)
    session = open_session(config, data)
    create_run(output, config, session.facts, session.network.split.starts)
    return _train(session, output, None, quiet, should_stop)


def create_run(output: Path, config: Config, facts: Facts, starts: Sequence[int]) -> None:
    """The folder appears with its settings in it, so that a run stopped at any moment can be resumed.

    Raises InputError where there is something in its place.
    """
    check_free(output)
    draft = output.with_name(f".{output.name}-new")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        config.save(draft / "config.json")
        write_text(draft / "data.json", json.dumps(facts.flat()))
        if config.model.balance == "time" and not config.model.at:  # measured anew, the cuts could be others
            write_text(draft / CUTS, json.dumps(list(starts)))
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


def resume_run(
    folder: Path,
    *,
    checkpoint: str | None = None,
    quiet: bool = False,
    should_stop: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Go on with a stopped run from its newest checkpoint (or a named one); returns the summary."""
    config = load_unfinished(folder)
    path = find_checkpoint(folder, checkpoint, required=False)
    session = open_session(config, starts=load_cuts(folder))
    check_facts(session.facts, folder, config)
    return _train(session, folder, path, quiet, should_stop)


def load_unfinished(folder: Path) -> Config:
    """The configuration of a run that can be gone on with; raises InputError where there is none, or it is finished."""
    if not folder.is_dir():
        raise InputError(f"there is no run folder {folder}.")
    config = load_config(folder)
    if (folder / "summary.json").exists():
        raise InputError(f"the run {folder} is finished: there is nothing to resume.")
    return config


def check_facts(facts: Facts, folder: Path, config: Config) -> None:
    """Raise InputError where the data set is not the one that a run was started on."""
    if facts != load_facts(folder):
        raise InputError(
            f"the data set {config.data.data} is not what the run {folder} was started on (classes, size or pixels "
            "differ): put the old one back, or train anew."
        )


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


def load_cuts(folder: Path) -> list[int] | None:
    """Where the blocks of a run start, where that was measured."""
    file = folder / CUTS
    if not file.exists():
        return None
    try:
        return [int(start) for start in json.loads(file.read_text())]
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{file} cannot be read: it must hold a list of whole numbers.") from error


def load_network(
    folder: Path, checkpoint: str | None = None, device: str | None = None
) -> tuple[Config, Facts, BlockLocal]:
    """A run's trained network, without its data set."""
    config, facts = load_config(folder), load_facts(folder)
    network = build_network(config, facts, find_device(device or config.machine.device), load_cuts(folder))
    path = find_checkpoint(folder, checkpoint)
    assert path is not None
    load_checkpoint(path, network, learners=False)
    return config, facts, network


def _train(
    session: Session, folder: Path, checkpoint: Path | None, quiet: bool, wish: Callable[[], bool] | None
) -> dict[str, Any]:
    config, network, batches = session.config, session.network, session.batches
    metrics = MetricsFile(folder / METRICS)
    saver = Checkpoints(folder / CHECKPOINTS, config.machine.checkpoint_every)
    signals = StopSignals()
    trainer = new_trainer(config, network, lambda: signals.asked or (wish is not None and wish()))
    trainer.prepare(batches)
    first_sizes = network.message_sizes()
    if checkpoint is not None:
        trainer.restore(load_checkpoint(checkpoint, network))
        metrics.write(resumed(trainer))
    progress = new_progress(config, session.data.name, block_names(network), folder, len(batches), trainer.step, quiet)
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
    return conclude(session, folder, trainer)


def new_trainer(config: Config, network: Learner, should_stop: Callable[[], bool]) -> Trainer:
    """The trainer of a configuration."""
    o = config.optimisation
    return Trainer(
        network,
        optimizer=o.build(),
        epochs=o.epochs,
        schedule=o.schedule,
        should_stop=should_stop,
        look_every=math.gcd(CHECK_EVERY, config.machine.checkpoint_every or 0),
    )


def resumed(trainer: Trainer) -> Record:
    """What metrics.jsonl says where a run goes on."""
    return {"event": "resumed", "epoch": trainer.epoch + 1, "step": trainer.step}


def new_progress(
    config: Config, data: str, names: Sequence[str], folder: Path, steps: int, done: int, quiet: bool
) -> Progress | NullProgress:
    """The console of a run: `steps` per epoch, `done` already."""
    if quiet:
        return Progress.silent()
    title = f"{config.learning.rule} · {config.model.model} · {data} · seed {config.machine.seed} → {folder}"
    return Progress(title, list(names), config.optimisation.epochs, steps, start_step=done)


def block_names(network: BlockLocal) -> list[str]:
    return list(network.split.names) if len(network.units) == len(network.split.names) else ["all blocks"]


def conclude(session: Session, folder: Path, trainer: Trainer) -> dict[str, Any]:
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
