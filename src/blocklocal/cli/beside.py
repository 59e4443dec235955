"""What `blocklocal evaluate` measures beside the answers: sets or intervals, abstention, and foreign samples."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from blocklocal._common.errors import InputError
from blocklocal._common.plain_table import table
from blocklocal.cli.arguments import EvaluateArguments

if TYPE_CHECKING:
    from blocklocal.exits import Choice
    from blocklocal.exits.foreign_evaluation import ForeignEvaluation
    from blocklocal.exits.sureness_evaluation import SurenessEvaluation
    from blocklocal.runs.asking import Asking
    from blocklocal.runs.facts import DatasetInfo


def asked_beside(given: EvaluateArguments, choice: "Choice | None") -> "Asking":
    """What is measured beside the answers, and with which temperatures.

    Raises:
        InputError: nothing was fitted for that, or two things do not go together.
    """
    from blocklocal.runs.asking import Asking, asking, check_goes_with_exit

    exits = None if choice is None else choice.exits
    if given.resize and not given.foreign:
        raise InputError("--resize is for the images of --foreign: name these, or leave it out.")
    if not (given.calibrated or given.foreign) and given.coverage is None and given.abstain is None:
        return Asking()
    check_goes_with_exit(exits, coverage=given.coverage, abstain=given.abstain, foreign=bool(given.foreign))
    found = asking(given.run, checkpoint=given.checkpoint, coverage=given.coverage, abstain=given.abstain)
    if found.temperatures is None:
        checkpoint = "" if given.checkpoint is None else f" --checkpoint {given.checkpoint}"
        raise InputError(
            f"{given.run} is not calibrated for the checkpoint that is used: blocklocal calibrate "
            f"{given.run}{checkpoint} does it."
        )
    return found


def measured_beside(
    given: EvaluateArguments, asked: "Asking", network: Any, batches: Any, facts: "DatasetInfo"
) -> tuple[list[str], dict[str, Any]]:
    """The lines that say what came of it, and the figures for JSON; nothing where nothing is asked."""
    from blocklocal.exits.foreign_evaluation import evaluate_foreign
    from blocklocal.exits.sureness_evaluation import evaluate_sureness
    from blocklocal.runs.exits import kept_exits
    from blocklocal.runs.foreign import foreign_batches

    lines: list[str] = []
    content: dict[str, Any] = {}
    if given.coverage is not None or given.abstain is not None:
        also: dict[str, Any] = {"sets": asked.sets, "interval": asked.interval, "answers_from": asked.answers_from}
        sure = evaluate_sureness(network, batches, asked.temperatures, **also)
        lines += measured_sureness_lines(given, facts.classes if facts.predicts_values else (), sure)
        content["sureness"] = {"coverage": given.coverage, "abstain": given.abstain, **asdict(sure)}
    if given.foreign:
        if given.resize and facts.kind != "images":
            raise InputError("--resize is for images, and this run reads rows: leave it out.")
        kept = kept_exits(given.run, given.checkpoint)
        if not kept.single:
            raise InputError(f"--foreign is for one class per sample, and {given.run} predicts something else.")
        others = foreign_batches(given.foreign, facts, network.device, resize=given.resize)
        foreign = evaluate_foreign(network, batches, others, kept.temperatures, kept.limits)
        lines += foreign_lines(foreign)
        content["foreign"] = {"files": list(map(str, given.foreign)), **asdict(foreign)}
    if lines and given.split == "validation" and given.data is None:
        lines.append("All this was fitted on these validation samples: others tell what it is worth.")
    return lines, content


def measured_sureness_lines(given: EvaluateArguments, values: Sequence[str], found: "SurenessEvaluation") -> list[str]:
    """What came of sets or intervals, and of abstention.

    Args:
        values: the names of those that are predicted; none where classes are.
    """
    lines = []
    for k, (inside, size) in enumerate(zip(found.inside or (), found.size or (), strict=True)):
        hold = f"{inside:.2f} % of {found.samples:,} sets hold the true class; a set has {size:.2f} classes in the mean"
        hold += f", {found.empty:.2f} % have none" if found.empty else ""
        if values:
            hold = f"{inside:.2f} % of the intervals hold the true {values[k]}; their mean width is {size:.4g}"
        lines.append(f"--coverage {given.coverage:g}: {hold}")
    if found.answered is not None:
        wrong = "" if found.wrong is None else f", {found.wrong:.2f} % of them wrong"
        lines.append(f"--abstain {given.abstain:g}: answers {found.answered:.2f} % of {found.samples:,}{wrong}")
    return lines


def foreign_lines(found: "ForeignEvaluation") -> list[str]:
    """How well every score tells the foreign samples."""
    scores = found.scores.values()
    columns = {
        "AUROC": [f"{each.auroc:.3f}" for each in scores],
        "AUPR": [f"{each.aupr:.3f}" for each in scores],
        "FPR at 95 %": [f"{each.false_positives:.3f}" for each in scores],
        "set called foreign %": [f"{100 * each.set_beyond:.1f}" for each in scores],
        "foreign called foreign %": [f"{100 * each.foreign_beyond:.1f}" for each in scores],
    }
    return [
        *table(list(found.scores), columns, what="foreign by"),
        f"{found.foreign_samples:,} foreign samples beside a set of {found.samples:,}. Called foreign: beyond what 95 "
        "of 100 validation samples do not exceed.",
    ]
