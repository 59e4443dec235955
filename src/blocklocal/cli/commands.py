"""What the commands do, each a few lines over the library."""

import json
import sys
from typing import TYPE_CHECKING, Any

from blocklocal._common.errors import InputError
from blocklocal._common.screen import console
from blocklocal._common.written import check_target, write_file
from blocklocal.cli.arguments import (
    CompareArguments,
    PredictArguments,
    ReportArguments,
    parse,
    parse_with_base,
)
from blocklocal.cli.folder import default_folder
from blocklocal.runs.recipes import RECIPES

if TYPE_CHECKING:
    from blocklocal.runs.asking import Asking


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


def predict(arguments: list[str]) -> None:
    """Class and confidence for image files: of the output, of each block and of the ensemble."""
    from blocklocal.runs.predict import predict_each
    from blocklocal.runs.predict_masks import checked_folder, write_masks
    from blocklocal.runs.predict_rows import predict_rows
    from blocklocal.runs.said import check_suffix, predictions_file, rows_of_text
    from blocklocal.runs.saved import load_facts
    from blocklocal.schemas.run import check_run_folder

    given = parse(PredictArguments, arguments, "blocklocal predict")
    check_run_folder(given.run)
    facts = load_facts(given.run)
    if facts.text is not None:
        raise InputError(
            f"the run {given.run} was trained on a text: blocklocal generate makes one, and blocklocal evaluate --data "
            "says how well every block predicts another."
        )
    how: dict[str, Any] = {
        "checkpoint": given.checkpoint,
        "device": given.device,
        "trust": given.trust,
        "visit": given.visit,
        "how": _asking(given),
    }
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


def _asking(given: PredictArguments) -> "Asking":
    """What is asked beside the answers.

    Raises:
        InputError: `calibrate` has not fitted it, or two things do not go together.
    """
    from blocklocal.runs.asking import asking
    from blocklocal.runs.exits import exits_for

    choice = exits_for(given.run, given.budget, given.risk, given.checkpoint)
    if choice is not None and given.visit is not None:
        raise InputError("early exit looks at the whole network: leave out --visit.")
    found = asking(
        given.run,
        checkpoint=given.checkpoint,
        exit=None if choice is None else choice.exits,
        coverage=given.coverage,
        abstain=given.abstain,
        foreign=given.foreign,
    )
    if found.temperatures is not None:
        print(f"calibrated as blocklocal calibrate {given.run} has fitted it", file=sys.stderr)
    return found


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
