"""The report's section on exits and confidences: pictures and a table of what `blocklocal calibrate` has fitted."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from blocklocal._common.errors import InputError
from blocklocal._common.files import is_there
from blocklocal.exits.choice import WORDS, Setting
from blocklocal.exits.fitted import FittedExits
from blocklocal.exits.kept import EXITS, ExitExample, exits_of
from blocklocal.report import plots
from blocklocal.report.embedded import check_png

BUDGETS = (0.25, 0.5, 0.75)
FEWEST = 5  # answers of a bin that is drawn


def exits_section(run: Path) -> dict[str, Any] | None:
    """Fields of the template; None where the run was not calibrated.

    Returns:
        pictures, headings, rows (a budget each: how many answers come from each block), examples, samples, checkpoint.
    """
    if not is_there(run / EXITS):
        return None
    kept = exits_of(run)
    found, names = kept.exits, kept.blocks or tuple(f"block {k + 1}" for k in range(len(kept.exits.own)))
    pictures = [
        ("exits-cost", _accuracy(found), "Right answers by what a sample costs in the mean, on the validation part."),
        ("exits-before", _reliability(found, names, 0), "How many answers of a confidence are right, as trained."),
        ("exits-after", _reliability(found, names, 1), "The same with the temperatures: best is the diagonal."),
        ("exits-risk", _risk(found), "Wrong answers among those that are surest, by how many are answered."),
    ]
    return {
        "pictures": [
            {"svg": plots.to_svg(figure, name), "caption": text}
            for name, figure, text in pictures
            if figure is not None
        ],
        "headings": ["budget", "FLOPs %", "right %", "leaves where", *names],
        "rows": [row for budget in BUDGETS if (row := _row(found, budget))],
        "examples": [_example(run, each) for each in kept.examples],
        "budget": kept.budget,
        "samples": f"{found.samples:,}",
        "checkpoint": kept.checkpoint,
    }


def _example(run: Path, each: ExitExample) -> tuple[str, str, str, int]:
    try:
        check_png(each.png)
    except ValueError as error:
        raise InputError(f"{run / EXITS}: an example is damaged ({error}): calibrate the run again.") from error
    return each.png, each.label, each.said, each.block


def _row(found: FittedExits, budget: float) -> list[str]:
    try:
        setting = found.for_budget(budget).setting
    except InputError:
        return []
    left = [f"{100 * share:.1f} %" for share in setting.left] or ["–"] * len(found.own)  # of older exits
    return [f"{budget:g}", f"{100 * setting.cost:.1f}", f"{100 * setting.right:.2f}", WORDS[setting.by], *left]


def _accuracy(found: FittedExits) -> Any:
    """A curve per way to leave: the most accurate setting up to every cost."""
    curves = []
    best: dict[str, list[Setting]] = {}
    for way in found.settings[1:]:
        for each in way:
            best.setdefault(each.by, []).append(each)
    for (by, settings), colour in zip(best.items(), plots.OKABE_ITO, strict=False):
        points = list(_rising(settings))
        costs, rights = [100 * each.cost for each in points], [100 * each.right for each in points]
        curves.append(plots.Curve(WORDS[by], rights, costs, colour=colour))
    if not curves:
        return None
    output = found.own[-1]
    if output is not None:
        curves.append(plots.Curve("the whole network", [100 * output.right], dashed=True))
    return plots.line_plot(curves, "mean FLOPs (%)", "right answers (%)")


def _rising(settings: Sequence[Setting]) -> Iterator[Setting]:
    """From the cheapest on those that are more accurate than all cheaper ones."""
    most = -1.0
    for each in sorted(settings, key=lambda each: (each.cost, -each.right)):
        if each.right > most:
            most = each.right
            yield each


def _reliability(found: FittedExits, names: Sequence[str], after: int) -> Any:
    colours = plots.block_colours(len(found.own))
    curves = [plots.Curve("as sure as right", [0.0, 100.0], [0.0, 100.0], colour="#9a9a9a", marker="")]
    for name, colour, own in zip(names, colours, found.reliability, strict=False):  # older exits have none
        if own:
            each = own[after]
            bins = zip(each.right, each.confidence, each.share, strict=True)
            told = [(100 * right, 100 * sure) for right, sure, share in bins if share * each.answers >= FEWEST]
            rights, sure = zip(*told, strict=True) if told else ((), ())
            curves.append(plots.Curve(name, rights, sure, colour=colour))
    return plots.line_plot(curves, "confidence (%)", "right answers (%)", plots.PERCENT) if len(curves) > 1 else None


def _risk(found: FittedExits) -> Any:
    curves = [
        plots.Curve(name, [100 * r for r in each.risk], [100 * c for c in each.coverage], colour=colour, marker="")
        for (name, each), colour in zip(found.risks.items(), plots.OKABE_ITO, strict=False)
    ]
    return plots.line_plot(curves, "answered (%)", "wrong (%)", plots.FROM_ZERO) if curves else None
