"""What the commands do, each a few lines over the library."""

import json
import re
import sys
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blocklocal._common.errors import InputError, Interrupted, unknown
from blocklocal._common.limits import check_memory
from blocklocal._common.measures import MEASURES, main_of
from blocklocal._common.screen import console
from blocklocal._common.written import check_target, signed_json, write_file
from blocklocal.cli.arguments import (
    CompareArguments,
    EvaluateArguments,
    PredictArguments,
    ReportArguments,
    TrainArguments,
    parse,
    parse_with_base,
    present_name,
)
from blocklocal.parallel.launch import Launch
from blocklocal.runs.config import Config
from blocklocal.runs.recipes import RECIPES
from blocklocal.streaming.settings import Streaming

if TYPE_CHECKING:
    from collections.abc import Sequence

    from blocklocal.data import ImageSet
    from blocklocal.data.samples import SampleSet
    from blocklocal.parallel.address import Address
    from blocklocal.runs.build import DatasetInfo
    from blocklocal.training.evaluation import Evaluation

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
        if summary is None:
            return
    elif given.resume is not None:
        summary = _resume(given, arguments)
    else:
        steps = given.launch.timeline
        summary = start_run(
            given.settings,
            folder,
            quiet=given.quiet,
            streaming=given.streaming,
            timeline=steps,
            choose_blocks=chooses_blocks(arguments),
        )
    main = main_of([summary], "test_")
    blocks = "  ".join(f"{value:.{main.digits}f}" for value in summary[f"block_test_{main.name}"])
    together = summary.get(f"combined_test_{main.name}")
    of_all = "" if together is None else f"; ensemble: {together:.{main.digits}f}"
    ece = "" if summary["test_ece"] is None else f"  ECE {summary['test_ece']:.3f}"
    if summary["stopped"] is not None:
        print(f"stopped early: {summary['stopped']}")
    said, digits = "accuracy" if main.percent else main.title, 2 if main.percent else main.digits
    print(f"test {said} {summary[f'test_{main.name}']:.{digits}f}{main.unit}  (per block: {blocks}{of_all}){ece}")
    print(f"report: {folder / 'report.html'}")


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
    from blocklocal.parallel.launch import launch
    from blocklocal.parallel.processes import check_devices
    from blocklocal.parallel.run import train_share
    from blocklocal.runs.build import find_device
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
        _check_share(config, given.launch)
        check_devices(find_device(config.machine.device), wanted)
        check_memory(f"{wanted} processes", {"torch in each": wanted * PROCESS_BYTES}, "give fewer --processes")
        output = [] if resume or given.output else ["--output", str(folder)]
        raise SystemExit(launch(["train", *arguments, *output], wanted))
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
                config,
                given.launch,
                folder,
                resume,
                given.checkpoint,
                given.quiet,
                given.accept_changes,
                given.streaming,
                epochs,
            ),
        )
    except Interrupted:
        if address.rank == 0:
            raise
        raise SystemExit(130) from None


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


def compare(arguments: list[str]) -> None:
    """Train the same settings under several rules and seeds; one table, one report."""
    from blocklocal.report import comparison_table
    from blocklocal.runs.compare import compare as run_comparison

    given = parse_with_base(CompareArguments, arguments, "blocklocal compare")
    if given.resume and given.output is None:
        raise InputError("--resume needs --output: the folder of the comparison to go on with.")
    output = given.output or default_folder(given.settings, "compare")
    rows = run_comparison(
        given.settings,
        given.rules,
        given.seeds,
        output,
        resume=given.resume,
        replace=given.replace,
        quiet=given.quiet,
    )
    comparison_table(rows, console(sys.stdout))
    print(f"report: {output / 'report.html'}")


def evaluate(arguments: list[str]) -> None:
    """Measure every block of a trained run on a split."""
    from blocklocal.data.table_set import load_rows
    from blocklocal.runs.build import evaluation_batches, load_data
    from blocklocal.runs.run import block_names, load_network
    from blocklocal.training.evaluation import evaluate as measure

    given = parse(EvaluateArguments, arguments, "blocklocal evaluate")
    if given.split not in ("test", "validation", "train"):
        raise unknown("split", given.split, ("test", "validation", "train"))
    if given.json is not None:
        check_target(given.json, overwrite=given.overwrite)
    config, facts, network = load_network(
        given.run, given.checkpoint, given.device, trust=given.trust, visit=given.visit
    )
    if given.data is not None:  # sizes of the run's own set say nothing of another
        held = config.data.validation if given.split == "validation" else 0
        config = config.edit(data=given.data, train_size=None, test_size=None, validation=held)
    if given.data is not None and facts.features is not None and facts.answers is not None:
        samples = load_rows(Path(given.data), config.data.target, facts.answers, facts.features)
    else:
        data = load_data(config)
        _check_same_kind(data, facts)
        samples = getattr(data, given.split)
    result = measure(network, evaluation_batches(config, samples, facts, network.device))
    for line in evaluation_lines(given.split, block_names(network), result):
        print(line)
    if given.json is not None:
        content = signed_json({"split": given.split, **asdict(result)}, indent=2)
        write_file(given.json, content, overwrite=given.overwrite)


def evaluation_lines(split: str, names: "Sequence[str]", result: "Evaluation") -> list[str]:
    """Every block, the ensemble, and all that is known of the output."""
    main = main_of([{f"test_{name}": values for name, values in result.measured.items()}], "test_")
    form = "{:6.2f} %" if main.percent else f"{{:8.{main.digits}f}}"
    overlap = result.measured.get("mean_iou", [None] * len(names))
    lines = [
        f"{name:32} {'  does not predict' if value is None else form.format(value)}"
        + ("" if iou is None else f"  mean IoU {iou:6.2f} %")
        for name, value, iou in zip(names, result.measured[main.name], overlap, strict=True)
    ]
    if main.name in result.combined:
        lines.append(f"{'ensemble':32} {form.format(result.combined[main.name])}")
    top3 = "" if result.top3 is None else f"top-3 {result.top3:.2f} %  "
    nll = "" if result.nll is None or not main.percent else f"NLL {result.nll:.4f}"
    ece = "" if result.ece is None else f"  ECE {result.ece:.4f}"
    said = [
        f"{MEASURES[name].title} {form.format(values[-1]).strip()}  "
        for name, values in result.measured.items()
        if values[-1] is not None
    ]
    return [*lines, f"{split}: {''.join(said)}{top3}{nll}{ece}".rstrip()]


def _check_same_kind(data: "ImageSet | SampleSet", facts: "DatasetInfo") -> None:
    """The data set must have the classes and the image size that the run was trained on."""
    from blocklocal.data import ImageSet

    if data.classes != facts.classes:
        raise InputError(
            f"{data.name} has the classes {', '.join(data.classes)}; the run was trained on {', '.join(facts.classes)}."
        )
    if not isinstance(data, ImageSet):
        if data.shape != facts.shape:
            raise InputError(f"{data.name} has samples {list(data.shape)}, the run takes {list(facts.shape)}.")
        return
    given, taken = ((d.channels, d.height, d.width) for d in (data, facts))
    if given != taken:
        raise InputError(
            f"{data.name} has images of {given[0]} channels and {given[1]}x{given[2]} pixels, the run takes {taken[0]} "
            f"channels and {taken[1]}x{taken[2]} pixels: convert the images."
        )


def predict(arguments: list[str]) -> None:
    """Class and confidence for image files: of the output, of each block and of the ensemble."""
    from blocklocal.runs.predict import check_suffix, predict_each, predictions_file, rows_of_text
    from blocklocal.runs.predict_masks import checked_folder, write_masks
    from blocklocal.runs.predict_rows import predict_rows
    from blocklocal.runs.saved import load_facts

    given = parse(PredictArguments, arguments, "blocklocal predict")
    facts = load_facts(given.run)
    how = {"checkpoint": given.checkpoint, "device": given.device, "trust": given.trust, "visit": given.visit}
    if facts.predicts_pixels:
        folder = checked_folder(given.output, given.images, overwrite=given.overwrite)
        said = predict_each(given.run, given.images, given.resize, **how)
        print(f"{folder}: {write_masks(said, folder, overwrite=given.overwrite)} masks")
        return
    if given.output is not None:
        check_suffix(given.output)
        check_target(given.output, overwrite=given.overwrite)
    reads_rows = facts.kind != "images"
    if reads_rows and len(given.images) != 1:
        raise InputError(f"the run {given.run} reads rows: give one file of them.")
    if reads_rows:
        each = predict_rows(given.run, given.images[0], **how)
    else:
        each = predict_each(given.run, given.images, given.resize, **how)
    if given.output is None:
        lines = rows_of_text(each) if reads_rows else (line for said in each for line in said.lines())
        for line in lines:
            print(line)
        return
    said = list(each)
    write_file(given.output, predictions_file(given.output, said, given.run), overwrite=given.overwrite)
    print(f"{given.output}: {len(said)} {'rows' if reads_rows else 'images'}")


def report(arguments: list[str]) -> None:
    """Write report.html again, for runs or comparisons."""
    from blocklocal.report import markdown_table, write_comparison, write_report
    from blocklocal.report.read import read_comparison

    given = parse(ReportArguments, arguments, "blocklocal report")
    if not given.folders:
        raise InputError("report needs at least one run folder.")
    comparisons = [folder for folder in given.folders if (folder / "compare.json").exists()]
    runs = [folder for folder in given.folders if folder not in comparisons]
    for folder in runs:
        print(write_report(folder, beside=[other for other in runs if other != folder]))
    for folder in comparisons:
        print(write_comparison(folder))
        if given.markdown:
            print(markdown_table(read_comparison(folder)))


def recipes(arguments: list[str]) -> None:
    """List the named recipes, or print one as JSON (blocklocal recipes NAME)."""
    if len(arguments) > 1 or (arguments and arguments[0].startswith("-") and arguments[0] not in ("-h", "--help")):
        raise InputError(f"recipes takes one name, or nothing to list them, not {' '.join(arguments)!r}.")
    if arguments and not arguments[0].startswith("-"):
        print(json.dumps(RECIPES.get(arguments[0])().flat(), indent=2))
        return
    for name in RECIPES.names():
        print(f"{name:16} {(RECIPES.get(name).__doc__ or '').strip()}")
    print("\nUse: blocklocal train --recipe NAME …  Print one: blocklocal recipes NAME")


def default_folder(config: Config, what: str) -> Path:
    """A folder below runs/ that does not exist yet."""
    data, model = _last_part(config.data.data), _last_part(config.model.model)
    base = Path("runs") / f"{data}-{model}-{what}-seed{config.machine.seed}"
    folder, count = base, 1
    while folder.exists():
        count += 1
        folder = base.with_name(f"{base.name}-{count}")
    return folder


def _last_part(name: str) -> str:
    """Of path/file.py:function or owner/name:configuration, as part of a folder's name."""
    return re.sub(r"[^\w.]+", "-", Path(name).name, flags=re.ASCII)
