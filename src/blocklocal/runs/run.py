"""One run: a folder that holds its settings, metrics, checkpoints, summary and report."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from blocklocal._common.errors import InputError
from blocklocal._common.extras import needs
from blocklocal._common.files import write_text
from blocklocal.data.text_set import TextSet
from blocklocal.runs.build import RunContext, open_session
from blocklocal.runs.checkpoints import CHECKPOINTS, checkpoint_to_look, checkpoint_to_resume
from blocklocal.runs.code import keep_code
from blocklocal.runs.conclude import REPORT, show
from blocklocal.runs.config import Config, load_config
from blocklocal.runs.facts import AnySet, DatasetInfo
from blocklocal.runs.lock import held
from blocklocal.runs.looking import check_watched, load_to_look
from blocklocal.runs.machine import find_device
from blocklocal.runs.origin import (
    Origin,
    adds_epochs,
    check_origin,
    complete_extension,
    extend,
    is_finished,
    open_settings,
)
from blocklocal.runs.planning import check_planned, plan_run
from blocklocal.runs.saved import CUTS, FACTS, TOKENIZER, load_cuts, load_facts, read_summary
from blocklocal.runs.sets import load_data
from blocklocal.runs.train import train_run
from blocklocal.runs.usual import suited
from blocklocal.schemas.run import check_run_folder
from blocklocal.streaming.allocator import give_back_at_once
from blocklocal.streaming.place import check_new_store, check_same_store, link_store, store_folder
from blocklocal.streaming.plan_table import summary_lines
from blocklocal.streaming.settings import Streaming
from blocklocal.timeline.recorder import STEPS


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
        return train_run(session, output, None, quiet, should_stop, account=[*account, *plan], timeline=timeline)


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
    facts, count = DatasetInfo.of(data, variance=config.model.variance), len(data.train)
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
        if isinstance(session.data, TextSet):
            write_text(draft / TOKENIZER, session.data.tokenizer.to_text())
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
        config, plan = open_settings(folder, trust=trust), []
        data = load_data(config, folder)
        if streaming is not None and streaming.wanted:
            store = (folder / CHECKPOINTS).resolve()
            config, streaming, plan = _planned(config, data, streaming, store, starts=load_cuts(folder))
        session = open_session(
            config, data, starts=load_cuts(folder), streaming=streaming, checkpoints=folder / CHECKPOINTS
        )
        changes = check_same(session, folder, accept_changes=accept_changes)
        session = replace(session, config=add_epochs(folder, session.config, epochs))
        return train_run(session, folder, path, quiet, should_stop, changes, [*session.data.account, *plan], timeline)


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
