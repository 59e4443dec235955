"""The command evaluate: every block of a trained run on a split."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from blocklocal._common.errors import InputError, unknown
from blocklocal._common.measures import MEASURES, main_of
from blocklocal._common.screen import printable
from blocklocal._common.written import check_target, signed_json, write_file
from blocklocal.cli.arguments import EvaluateArguments, parse
from blocklocal.cli.beside import asked_beside, measured_beside

if TYPE_CHECKING:
    from collections.abc import Sequence

    from blocklocal.exits import Choice, EarlyEvaluation
    from blocklocal.runs.facts import AnySet, DatasetInfo
    from blocklocal.training.evaluation import Evaluation


def evaluate(arguments: list[str]) -> None:
    """Measure every block of a trained run on a split."""
    from blocklocal.data.table_set import load_rows
    from blocklocal.exits import evaluate_early
    from blocklocal.runs.exits import exits_for
    from blocklocal.runs.looking import load_network
    from blocklocal.runs.saved import TOKENIZER
    from blocklocal.runs.sets import evaluation_batches, load_data
    from blocklocal.runs.train import block_names
    from blocklocal.training.evaluation import evaluate as measure

    given = parse(EvaluateArguments, arguments, "blocklocal evaluate")
    if given.split not in ("test", "validation", "train"):
        raise unknown("split", given.split, ("test", "validation", "train"))
    if given.json is not None:
        check_target(given.json, overwrite=given.overwrite)
    config, facts, network = load_network(
        given.run, given.checkpoint, given.device, trust=given.trust, visit=given.visit
    )
    choice = exits_for(given.run, given.budget, given.risk, given.checkpoint)
    asked = asked_beside(given, choice)
    if choice is not None and given.calibrated:
        raise InputError("early exits have temperatures of their own: leave out --calibrated.")
    if choice is not None and given.visit is not None:
        raise InputError("early exit looks at the whole network: leave out --visit.")
    if given.data is not None:  # sizes of the run's own set say nothing of another
        held = config.data.validation if given.split == "validation" else 0
        config = config.edit(data=given.data, train_size=None, test_size=None, validation=held)
        if facts.text is not None:
            config = config.edit(tokenizer=str(given.run / TOKENIZER))
    if given.data is not None and facts.features is not None and facts.answers is not None:
        samples, part = load_rows(Path(given.data), config.data.target, facts.answers, facts.features), ""
    else:
        data = load_data(config, given.run)
        _check_same_kind(data, facts)
        samples, part = getattr(data, given.split), f" ({given.split})"
    batches = evaluation_batches(config, samples, facts, network.device)
    what = given.split if given.data is None else f"{printable(given.data)}{part}"
    names = block_names(network)
    beside, figures = measured_beside(given, asked, network, batches, facts)
    if choice is not None:
        early = evaluate_early(network, batches, choice)
        lines, measured = early_lines(what, names, early, choice), {"exits": asdict(choice.exits), **asdict(early)}
    else:
        # the measures of values have no use for temperatures, which their intervals have
        divide = asked.temperatures if given.calibrated or not facts.predicts_values else None
        result = measure(network, batches, temperatures=divide)
        lines = evaluation_lines(what, names, result)
        measured = {"calibrated": divide is not None, **asdict(result)}
    if measured.get("calibrated"):
        print(f"calibrated as blocklocal calibrate {given.run} has fitted it", file=sys.stderr)
    print("\n".join([*lines, *beside]))
    if given.json is not None:
        content = signed_json({"split": given.split, "data": given.data, **measured, **figures}, indent=2)
        write_file(given.json, content, overwrite=given.overwrite)


def early_lines(what: str, names: "Sequence[str]", early: "EarlyEvaluation", choice: "Choice") -> list[str]:
    """When a sample leaves, how many answers each block has given, how many are right, and what they cost."""
    rule = f"leaves where: {choice.setting.describe(len(names))}"
    lines = [f"{name:32} {share:6.2f} % of the answers" for name, share in zip(names, early.left, strict=True)]
    said = f"right {early.right:.2f} %  with {early.cost:.1f} % of the FLOPs  changed {early.changed:.2f} %"
    return [rule, *lines, f"{what}: {said}"]


def evaluation_lines(what: str, names: "Sequence[str]", result: "Evaluation") -> list[str]:
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
        f"{MEASURES[name].title} {values[-1]:.{max(2, MEASURES[name].digits)}f}{MEASURES[name].unit}  "
        for name, values in result.measured.items()
        if values[-1] is not None
    ]
    return [*lines, f"{what}: {''.join(said)}{top3}{nll}{ece}".rstrip()]


def _check_same_kind(data: "AnySet", facts: "DatasetInfo") -> None:
    """The data set must have the classes and the image size that the run was trained on."""
    from blocklocal.data import ImageSet
    from blocklocal.data.text_set import TextSet

    if isinstance(data, TextSet) != (facts.text is not None):
        read, given = ("a text", "none") if facts.text else (f"no text, but {facts.kind}", "one")
        raise InputError(f"the run was trained on {read}, and {data.name} is {given}.")
    if isinstance(data, TextSet):
        return

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
