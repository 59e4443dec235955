"""The command train: one run, in this process or spread over several."""

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blocklocal._common.errors import InputError, Interrupted
from blocklocal._common.limits import check_memory
from blocklocal._common.measures import main_of
from blocklocal.cli.arguments import (
    TrainArguments,
    parse_with_base,
    present_name,
)
from blocklocal.cli.folder import default_folder
from blocklocal.parallel.launch import Launch
from blocklocal.runs.config import Config
from blocklocal.streaming.settings import Streaming

if TYPE_CHECKING:
    from blocklocal.parallel.address import Address


PROCESS_BYTES = 100 * 2**20  # of a process's own, before it has any data


def train(arguments: list[str]) -> None:
    """Train one network block by block and write a run folder with a report."""
    from blocklocal.parallel.address import find_address
    from blocklocal.runs.run import start_run

    given = parse_with_base(TrainArguments, arguments, "blocklocal train")
    if given.resume is None and (given.checkpoint is not None or given.accept_changes):
        raise InputError("--checkpoint and --accept-changes are for a run that goes on: give --resume RUN with them.")
    if given.resume is not None:
        _only_resume(arguments)
    folder = given.resume or given.output or default_folder(given.settings, given.settings.learning.rule)
    address = find_address()
    spread = address is not None or given.launch.processes > 1
    if not spread and (given.launch.replicas > 1 or given.launch.placement):
        raise InputError("--replicas and --placement spread a run over processes: give --processes with them.")
    if spread and given.streaming.memory:
        raise InputError("--memory plans a run in one process: give --visit N with --processes.")
    if spread:
        summary = _train_spread(given, arguments, folder, address)
    elif given.resume is not None:
        summary = _resume(given, arguments)
    else:
        summary = start_run(
            given.settings,
            folder,
            quiet=given.quiet,
            streaming=given.streaming,
            timeline=given.launch.timeline,
            choose_blocks=chooses_blocks(arguments),
        )
    if summary is None:  # the first of the processes says it
        return
    _say(summary)
    print(f"report: {folder / 'report.html'}")


def _say(summary: dict[str, Any]) -> None:
    """What the run has reached on the test split."""
    main = main_of([summary], "test_")
    blocks = "  ".join(f"{value:.{main.digits}f}" for value in summary[f"block_test_{main.name}"])
    together = summary.get(f"combined_test_{main.name}")
    of_all = "" if together is None else f"; ensemble: {together:.{main.digits}f}"
    ece = "" if summary["test_ece"] is None else f"  ECE {summary['test_ece']:.3f}"
    if summary["stopped"] is not None:
        print(f"stopped early: {summary['stopped']}")
    said, digits = "accuracy" if main.percent else main.title, 2 if main.percent else main.digits
    bits, found = summary.get("test_bits_per_byte"), summary[f"test_{main.name}"]
    per_byte = "" if bits is None else f"  {bits:.3f} bits per byte"
    print(f"test {said} {found:.{digits}f}{main.unit}  (per block: {blocks}{of_all}){ece}{per_byte}")


def _resume(given: TrainArguments, arguments: list[str]) -> dict[str, Any]:
    from blocklocal.runs.run import resume_run

    assert given.resume is not None
    return resume_run(
        given.resume,
        checkpoint=given.checkpoint,
        epochs=_more_epochs(given, arguments),
        quiet=given.quiet,
        trust=given.trust,
        accept_changes=given.accept_changes,
        streaming=given.streaming,
        timeline=given.launch.timeline,
    )


def _train_spread(
    given: TrainArguments, arguments: list[str], folder: Path, address: "Address | None"
) -> dict[str, Any] | None:
    """Train in several processes: start them, or, as one of them (`address`), do this one's part.

    Returns the summary in the first of them.
    """
    from blocklocal.parallel.decision import RunRequest
    from blocklocal.parallel.run import train_share
    from blocklocal.runs.origin import adds_epochs, is_finished, open_settings
    from blocklocal.runs.run import check_free, check_run

    resume, wanted = given.resume is not None, given.launch.processes
    config, epochs = given.settings, None
    if resume:
        check_run(folder)
        epochs = _more_epochs(given, arguments)
        if address is None and is_finished(folder) and not adds_epochs(folder, epochs):
            return _resume(given, arguments)  # at most its report is left to be written
        config = open_settings(folder, trust=given.trust)
        config = config if epochs is None else config.edit(epochs=epochs)
    if address is None:
        if not resume:
            check_free(folder)
        output = [] if resume or given.output else ["--output", str(folder)]
        raise SystemExit(_start_processes(config, given.launch, [*arguments, *output]))
    if wanted not in (1, address.size):
        raise InputError(
            f"--processes {wanted} was given, but the launcher has started {address.size}: leave --processes out under "
            f"torchrun, or give it --nproc-per-node {wanted}."
        )
    if not resume and not given.output:
        raise InputError("the processes of a run need one folder: give --output under torchrun.")
    try:
        return train_share(
            address,
            RunRequest(
                config, given.launch, folder, resume, given.checkpoint, given.quiet, given.accept_changes,
                given.streaming, epochs,
            ),
        )  # fmt: skip
    except Interrupted:
        if address.rank == 0:
            raise
        raise SystemExit(130) from None


def _start_processes(config: Config, wanted: Launch, arguments: list[str]) -> int:
    """Start the processes of a run and wait for them; returns the exit status."""
    from blocklocal.parallel.launch import launch
    from blocklocal.parallel.processes import check_devices
    from blocklocal.runs.machine import find_device

    count = wanted.processes
    _check_share(config, wanted)
    check_devices(find_device(config.machine.device), count)
    check_memory(f"{count} processes", {"torch in each": count * PROCESS_BYTES}, "give fewer --processes")
    return launch(["train", *arguments], count)


def _check_share(config: Config, launch: Launch) -> None:
    """Raise InputError, before any process is started, where there are not enough blocks, or a wrong placement."""
    from blocklocal.parallel.stage import check_placement

    blocks = len(config.model.at) + 1 if config.model.at else config.model.blocks
    stages, left = divmod(launch.processes, launch.replicas)
    if not left and (launch.placement or stages > blocks):
        check_placement(launch.placement, blocks, stages)


def _more_epochs(given: TrainArguments, arguments: list[str]) -> int | None:
    """The epochs that a resumed run is to be trained on to, where the command names them."""
    return given.settings.optimisation.epochs if "--epochs" in _flags(arguments) else None


def chooses_blocks(arguments: list[str]) -> bool:
    """Whether the command leaves the number of blocks to `--memory`: it names neither blocks nor where they start."""
    return not {"--blocks", "--at", "--recipe", "--config"}.intersection(_flags(arguments))


def _flags(arguments: list[str]) -> list[str]:
    return [a.partition("=")[0].replace("_", "-") for a in arguments if a.startswith("--")]


def _only_resume(arguments: list[str]) -> None:
    """A resumed run has its settings; a flag beside --resume would be ignored silently."""
    launch = [setting.name.replace("_", "-") for kind in (Launch, Streaming) for setting in fields(kind)]
    known = ["resume", "checkpoint", "epochs"]
    for name in (*launch, "quiet", "trust", "accept-changes"):
        known += [name, f"no-{name}"]
    others = [flag for flag in _flags(arguments) if present_name(flag).removeprefix("--") not in known]
    if others:
        raise InputError(f"--resume takes the run's own settings; leave out {', '.join(others)}.")
