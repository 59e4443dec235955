"""What `blocklocal evaluate` measures beside the answers: sets or intervals, abstention, and foreign samples."""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
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
    from blocklocal.runs.asking import Asking, asking

    exits = None if choice is None else choice.exits
    if given.resize and not given.foreign:
        raise InputError("--resize is for the images of --foreign: name these, or leave it out.")
    if choice is not None and given.foreign:
        raise InputError("--foreign asks all blocks, which early exit does not: leave out --budget and --risk.")
    if not (given.calibrated or given.foreign) and given.coverage is None and given.abstain is None:
        return Asking(exit=exits)
    found = asking(given.run, checkpoint=given.checkpoint, exit=exits, coverage=given.coverage, abstain=given.abstain)
    if found.temperatures is None:
        checkpoint = "" if given.checkpoint is None else f" --checkpoint {given.checkpoint}"
        raise InputError(
            f"{given.run} is not calibrated for that: blocklocal calibrate {given.run}{checkpoint} does it."
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
        sure = evaluate_sureness(network, batches, partial(asked.predict, network), **also)
        lines += sureness_lines(given, facts.classes if facts.predicts_values else (), sure)
        content["sureness"] = asdict(sure)
    if given.foreign:
        kept = kept_exits(given.run, given.checkpoint)
        others = foreign_batches(given.foreign, facts, network.device, resize=given.resize)
        foreign = evaluate_foreign(network, batches, others, kept.temperatures, kept.limits)
        lines += foreign_lines(foreign)
        content["foreign"] = asdict(foreign)
    return lines, content


def sureness_lines(given: EvaluateArguments, values: Sequence[str], found: "SurenessEvaluation") -> list[str]:
    """What came of sets or intervals, and of abstention.

    Args:
        values: the names of those that are predicted; none where classes are.
    """
    lines = []
    for k, (inside, size) in enumerate(zip(found.inside or (), found.size or (), strict=True)):
        held, large = (f"values of {values[k]}", f"width {size:.4g}") if values else ("classes", f"{size:.2f} classes")
        lines.append(f"--coverage {given.coverage:g}: {inside:.2f} % of the true {held} are inside, mean {large}")
    if found.answered is not None:
        wrong = "" if found.wrong is None else f", {found.wrong:.2f} % of them wrong"
        lines.append(f"--abstain {given.abstain:g}: answers {found.answered:.2f} %{wrong}")
    return lines


def foreign_lines(found: "ForeignEvaluation") -> list[str]:
    """How well every score tells the foreign samples."""
    scores = found.scores.values()
    columns = {
        "AUROC": [f"{each.auroc:.3f}" for each in scores],
        "AUPR": [f"{each.aupr:.3f}" for each in scores],
        "FPR at 95 %": [f"{each.false_positives:.3f}" for each in scores],
        "called foreign %": [f"{each.beyond:.1f}" for each in scores],
        "of the foreign": [f"{each.found:.1f}" for each in scores],
    }
    return [
        *table(list(found.scores), columns, what="foreign by"),
        f"{found.foreign:,} foreign samples beside {found.samples:,}. Called foreign: beyond what 95 of 100 validation "
        "samples do not exceed.",
    ]
