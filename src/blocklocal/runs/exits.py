"""The exits of a run: fitted on its validation part, kept in `exits.json`, used to predict and to evaluate."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from blocklocal._common.errors import InputError
from blocklocal._common.files import is_there, write_text
from blocklocal._common.written import signed_json
from blocklocal.block.targets import MISSING, Classes, values_of
from blocklocal.exits import Choice, FittedExits, export_programs, fit_exits
from blocklocal.network.edge import Loaded, pair
from blocklocal.network.exits import EarlyPrediction
from blocklocal.network.neighbours import Neighbours
from blocklocal.network.network import BlockLocal
from blocklocal.runs.checkpoints import checkpoint_to_look
from blocklocal.runs.looking import load_network
from blocklocal.runs.sets import evaluation_batches, load_data
from blocklocal.runs.train import block_names
from blocklocal.schemas import read_json

EXITS = "exits.json"


@dataclass(frozen=True)
class RunExits:
    """As `exits.json` holds them.

    Attributes:
        checkpoint: the name of the one that they were fitted for.
    """

    checkpoint: str
    exits: FittedExits
    written_by: str = ""


def calibrate_run(
    run: Path, *, checkpoint: str | None = None, device: str = "auto", trust: bool = False
) -> tuple[FittedExits, list[str]]:
    """Fit the exits of a run on its validation part, and write them to `exits.json` in its folder.

    Returns:
        The exits, and the names of the blocks.

    Raises:
        InputError: the run has no validation part, or predicts what has no exits.
    """
    config, facts, network = load_network(run, checkpoint, device, trust=trust)
    if not config.data.validation:
        raise InputError(
            f"the run {run} has no validation part, on which exits are fitted: train it with --validation above 0. "
            "What is fitted on test data is not measured by them."
        )
    assert isinstance(network, BlockLocal)
    data = load_data(config, run)
    batches = evaluation_batches(config, data.validation, facts, network.device)
    found = fit_exits(network, batches)
    kept = RunExits(checkpoint_to_look(run, checkpoint).name, found)
    write_text(run / EXITS, signed_json(asdict(kept), indent=1).decode())
    return found, block_names(network)


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
    """What `calibrate_run` has fitted.

    Raises:
        InputError: there is no `exits.json`, or it is of another checkpoint.
    """
    if not is_there(run / EXITS):
        raise InputError(f"{run} is not calibrated yet: blocklocal calibrate {run} does it on its validation part.")
    kept = read_json(run / EXITS, RunExits, what="exits, as `blocklocal calibrate` writes them")
    now = checkpoint_to_look(run, checkpoint).name
    if kept.checkpoint != now:
        raise InputError(
            f"the exits of {run} were fitted for {kept.checkpoint}, and {now} is used now: calibrate it again, or give "
            f"--checkpoint {kept.checkpoint}."
        )
    return kept.exits


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


@dataclass(frozen=True)
class EarlyEvaluation:
    """What early exit came to on a set.

    Attributes:
        right: percent of the answers that are right.
        changed: percent of the answers that are others than the output's.
        left: percent of the answers that are from each block.
        cost: mean FLOPs of a sample, in percent of the whole network's.
    """

    right: float
    changed: float
    left: list[float]
    cost: float


def evaluate_early(network: Neighbours, batches: Iterable[Loaded], choice: Choice) -> EarlyEvaluation:
    """Measure a network whose samples leave early."""
    assert isinstance(network, BlockLocal)
    count, prices = len(network.learners), torch.tensor(choice.prices, dtype=torch.float64)
    right, changed, answers, left, cost, samples = 0, 0, 0, torch.zeros(count), 0.0, 0
    for x, y in map(pair, batches):
        found = network.predict(x, choice.exits)
        assert isinstance(found, EarlyPrediction)
        wanted = network.targets.hard(y) if isinstance(network.targets, Classes) else values_of(y).long()
        there = (wanted != MISSING) & (found.block > 0)
        right += int((found.label == wanted)[there].sum())
        changed += int((found.label != network.predict(x).label)[there].sum())
        answers += int(there.sum())
        left += torch.bincount(found.block[there].cpu() - 1, minlength=count)
        cost += prices[_last(found.block).cpu() - 1].sum().item()
        samples += len(found.block)
    return EarlyEvaluation(
        100 * right / answers, 100 * changed / answers, (100 * left / answers).tolist(), 100 * cost / samples
    )


def _last(block: Tensor) -> Tensor:
    """Of every sample, the block at which its last answer was taken."""
    return (block if block.dim() == 1 else block.flatten(1).amax(1)).clamp(min=1)
