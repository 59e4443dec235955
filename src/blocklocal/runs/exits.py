"""The exits of a run: kept in `exits.json` in its folder, used to predict, to evaluate and to export."""

from pathlib import Path

from blocklocal._common.errors import InputError
from blocklocal._common.files import is_there
from blocklocal.exits import Choice, FittedExits, export_programs
from blocklocal.exits.kept import EXITS, exits_of
from blocklocal.exits.sureness import Sureness
from blocklocal.network.network import BlockLocal
from blocklocal.runs.checkpoints import check_fitted_for
from blocklocal.runs.looking import load_network
from blocklocal.runs.saved import load_facts


def exits_for(run: Path, budget: float | None, risk: float | None, checkpoint: str | None = None) -> Choice | None:
    """The exits of a run for a budget or a risk; None where neither is asked for.

    Raises:
        InputError: both are, there is no `exits.json`, it is of another checkpoint, or there are no such exits.
    """
    if budget is None and risk is None:
        return None
    if budget is not None and risk is not None:
        raise InputError("give --budget or --risk, not both: each of them decides when a sample leaves.")
    kept = kept_exits(run, checkpoint)
    if budget is not None:
        return kept.for_budget(budget)
    assert risk is not None
    return kept.for_risk(risk)


def kept_exits(run: Path, checkpoint: str | None = None) -> FittedExits:
    """What was fitted for a checkpoint of a run; default: the newest.

    Raises:
        InputError: there is no `exits.json`, or it is of another checkpoint.
    """
    facts = load_facts(run)
    if facts.predicts_values or facts.predicts_pixels:
        what = "values" if facts.predicts_values else "pixels"
        raise InputError(
            "--budget, --risk, --abstain and --foreign are for classes, labels and tokens, of which a block gives "
            f"probabilities: {run} predicts {what}."
        )
    if not is_there(run / EXITS):
        raise InputError(f"{run} is not calibrated yet: blocklocal calibrate {run} does it on its validation part.")
    kept = exits_of(run)
    check_fitted_for(run, kept.checkpoint, checkpoint, "exits")
    return kept.exits


def kept_sureness(run: Path, checkpoint: str | None = None) -> Sureness:
    """What the output's probabilities say of later answers.

    Raises:
        InputError: as `kept_exits`; or a sample of the run has not one class.
    """
    kept = kept_exits(run, checkpoint)
    found = kept.sureness
    if found is None and kept.single and not load_facts(run).predicts_labels:
        raise InputError(f"{run} was calibrated by an older version, which kept no sets: calibrate it again.")
    if found is None:
        raise InputError(f"sets and abstention are for one class per sample, and {run} predicts something else.")
    return found


def foreign_limit(run: Path, checkpoint: str | None = None) -> float:
    """The disagreement of the blocks from which on a sample is taken for foreign.

    Raises:
        InputError: as `kept_exits`; or the blocks of the run have none.
    """
    limits = kept_exits(run, checkpoint).limits
    if "disagreement" not in limits:
        raise InputError(f"the blocks of {run} cannot disagree: two of them must give every sample one class.")
    return limits["disagreement"]


def export_run_programs(
    run: Path,
    folder: Path,
    format: str,
    *,
    budget: float | None = None,
    risk: float | None = None,
    checkpoint: str | None = None,
    trust: bool = False,
) -> Path:
    """Write a program per block of a run, and when a sample leaves (`exits.programs`).

    Raises:
        InputError: neither a budget nor a risk is given; as `exits_for` and `export_programs`.
    """
    choice = exits_for(run, budget, risk, checkpoint)
    if choice is None:
        raise InputError("programs leave early: give --budget or --risk, after blocklocal calibrate.")
    _, facts, network = load_network(run, checkpoint, "cpu", trust=trust)
    assert isinstance(network, BlockLocal)
    about = {"classes": list(facts.classes), "mean": list(facts.mean), "std": list(facts.std)}
    return export_programs(network, folder, facts.example(2), choice.exits, format, about=about)
