"""`blocklocal calibrate`: temperatures and exits, fitted on the validation part of a run."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from blocklocal._common.errors import InputError
from blocklocal.cli.arguments import parse

if TYPE_CHECKING:
    from blocklocal.exits import FittedExits
    from blocklocal.exits.intervals import RunIntervals

BUDGETS, RISKS, INTERVALS_SHOWN = (0.25, 0.5, 0.75), (0.01, 0.05), (0.5, 0.9, 0.95)  # that the tables show
ABSTAIN_SHOWN = (0.01, 0.05, 0.1, 0.2)
FEW = 100  # samples


@dataclass(frozen=True)
class CalibrateArguments:
    """Make the probabilities of a run's blocks mean what they say, and find when a sample may leave early.

    Both are fitted on the validation part of the run, and kept in RUN/exits.json; the test part is not looked at. Then
    `predict` gives these probabilities and takes --coverage and --abstain, and `predict` and `evaluate` take --budget
    and --risk. Of a run that predicts values, variances and intervals are fitted and kept in RUN/intervals.json.
    """

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder."""
    checkpoint: str | None = None
    """A named checkpoint; default: the newest."""
    device: str = "auto"
    """auto, cpu or cuda."""
    trust: bool = False
    """Let the code of a model of its own, which a run or configuration names, run on this machine."""


def calibrate(arguments: list[str]) -> None:
    """Fit confidences, and early exits or intervals, on the validation part of a run."""
    from blocklocal.exits.intervals import INTERVALS, RunIntervals
    from blocklocal.runs.calibrate import calibrate_run
    from blocklocal.runs.exits import EXITS

    given = parse(CalibrateArguments, arguments, "blocklocal calibrate")
    found, names = calibrate_run(given.run, checkpoint=given.checkpoint, device=given.device, trust=given.trust)
    if isinstance(found, RunIntervals):
        lines, file = interval_lines(found), INTERVALS
    else:
        lines, file = [*calibration_lines(found, names), *exit_lines(found), *sureness_lines(found)], EXITS
    print("\n".join([*lines, "", str(given.run / file), str(given.run / "report.html")]))


def interval_lines(found: "RunIntervals") -> list[str]:
    """How good the values of every block are, before and after, and how wide the intervals of the output."""
    from blocklocal._common.plain_table import table

    columns = {head: [each[head] for _, each in found.table] for head in found.table[0][1]}
    lines = [*table([name for name, _ in found.table], columns), ""]
    for coverage in INTERVALS_SHOWN:
        try:
            named = zip(found.values, found.at(coverage).limits.tolist(), strict=True)
            limits = ", ".join(f"{name} ± {limit:.4g}" for name, limit in named)
        except InputError:
            lines.append(f"--coverage {coverage:g}: too few validation samples")
            continue
        lines.append(f"--coverage {coverage:g}: {limits} (in {found.unit})")
    return [*lines, f"Fitted and measured on {found.samples:,} validation samples."]


def calibration_lines(found: "FittedExits", names: Sequence[str]) -> list[str]:
    """How good the probabilities of every block are, before and after."""
    from blocklocal._common.plain_table import table
    from blocklocal.exits.temperature import is_at_the_edge

    rows = [*zip(names, found.own, strict=True), ("ensemble", found.together[-1])]
    known = [(name, each) for name, each in rows if each is not None]
    hidden = [each is not None for each in found.own[:-1]]
    prices = [*found.costs.leaving([*hidden, False]), None]
    leaving = [price for price, (_, each) in zip(prices, rows, strict=True) if each is not None]
    columns = {
        "FLOPs %": ["–" if price is None else f"{100 * price:.0f}" for price in leaving],
        "right %": [f"{100 * each.right:.2f}" for _, each in known],
        "temperature": [f"{each.temperature:.3f}{'!' * is_at_the_edge(each.temperature)}" for _, each in known],
        "NLL": [f"{each.nll_before:.4f} → {each.nll:.4f}" for _, each in known],
        "Brier": [f"{each.brier_before:.4f} → {each.brier:.4f}" for _, each in known],
        "ECE": [f"{each.ece_before:.4f} → {each.ece:.4f}" for _, each in known],
        "adaptive": [f"{each.adaptive_before:.4f} → {each.adaptive:.4f}" for _, each in known],
    }
    counted = [f"{name} {weight:.2f}" for name, weight in zip(names, found.temperatures.weights, strict=False)]
    edge = any(is_at_the_edge(each.temperature) for _, each in known)
    return [
        *table([name for name, _ in known], columns),
        f"Fitted and measured on {found.samples:,} validation samples. FLOPs: of leaving there, with what it and those "
        "before it need to answer.",
        *([f"Weights in the ensemble: {', '.join(counted)}."] if counted else []),
        *(["!: no temperature from 1/64 to 64 is enough: this block's probabilities are not calibrated."] * edge),
        *([f"{found.samples} samples are few: the temperatures may not hold on others."] * (found.samples < FEW)),
    ]


def sureness_lines(found: "FittedExits") -> list[str]:
    """What some coverages and risks of the output come to."""
    from blocklocal.exits.sureness import RISKS

    if found.sureness is None:
        return []
    said = [
        f"--abstain {risk:g}: " + ("never sure enough" if threshold is None else f"answers {100 * share:.1f} %")
        for risk, threshold, share in zip(RISKS, found.sureness.thresholds, found.sureness.answered, strict=True)
        if risk in ABSTAIN_SHOWN
    ]
    return ["", f"Of the output: area under risk and coverage (AURC) {found.sureness.aurc:.5f}.", *said]


def exit_lines(found: "FittedExits") -> list[str]:
    """What some budgets and risks come to."""
    from blocklocal._common.plain_table import table

    if not any(found.own[:-1]):
        return []
    names, cells = [], []
    wanted = [*(("--budget", b, found.for_budget) for b in BUDGETS), *(("--risk", r, found.for_risk) for r in RISKS)]
    for flag, value, choose in wanted:
        names.append(f"{flag} {value:g}")
        try:
            setting = choose(value).setting
        except InputError:
            cells.append(["–"] * 4)
            continue
        cells.append(
            [
                f"{100 * setting.cost:.1f}",
                f"{100 * setting.right:.2f}",
                f"{100 * setting.changed:.2f}",
                setting.describe(len(found.own)),
            ]
        )
    heads = ("FLOPs %", "right %", "changed %", "leaves where")
    columns = {head: [row[k] for row in cells] for k, head in enumerate(heads)}
    return [
        "",
        *table(names, columns, what="exits for"),
        "FLOPs: of the whole network without readouts; changed: other answers than the output's. –: not possible.",
    ]
