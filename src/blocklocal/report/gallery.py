"""The pictures of a page with their captions, and the sentence that stands where there is nothing to draw."""

from collections.abc import Sequence
from typing import Any

from blocklocal._common.measures import Measure, main_of
from blocklocal.report import plots
from blocklocal.report.read import Run
from blocklocal.report.table import BACKPROP, condition, mean, measure_of

ONE_EPOCH = "One epoch is recorded, and a curve needs two."
Picture = dict[str, str]


def _pictures(made: Sequence[tuple[str, Any, str]]) -> list[Picture]:
    return [{"svg": plots.to_svg(figure, name), "caption": text} for name, figure, text in made if figure is not None]


def learning_curves(run: Run, name: str, before: str = "") -> list[Picture]:
    """Loss and validation accuracy of every block over the epochs.

    Args:
        before: whose they are, in the captions.
    """
    if len(run.epochs) < 2:
        return []
    measure = main_of(run.epochs)
    key, limits = f"validation_{measure.name}", plots.PERCENT if measure.percent else plots.FREE
    losses, accuracies = plots.block_curves(run, "loss"), plots.block_curves(run, key)
    loss = plots.line_plot(losses, "epoch", "local loss")
    accuracy = plots.line_plot(accuracies, "epoch", f"validation {measure.heading}", limits)
    return _pictures(
        [
            (f"{name}-loss", loss, _sentence(f"{before}local loss of every block, mean over the epoch.")),
            (f"{name}-{key}", accuracy, _sentence(f"{before}validation {_word(measure)} of every block.")),
        ]
    )


def message_curves(run: Run, name: str, before: str = "") -> list[Picture]:
    """Size of the backward message of every block over the epochs, as `learning_curves`."""
    if len(run.epochs) < 2:
        return []
    figure = plots.line_plot(plots.block_curves(run, "message"), "epoch", "mean |b|", plots.FROM_ZERO)
    text = _sentence(f"{before}mean size of the backward message b of every block.")
    return _pictures([(f"{name}-message", figure, text)])


def no_curves(runs: Sequence[Run]) -> str:
    """Why there is no learning curve."""
    return ONE_EPOCH if any(run.epochs for run in runs) else "No epoch is recorded yet."


def no_messages(runs: Sequence[Run]) -> str:
    """Why there is no curve of messages."""
    recorded = [value for run in runs for record in run.epochs for value in record["message"]]
    if any(value is not None for value in recorded):
        return ONE_EPOCH
    return "No backward message was recorded: the rule sends none, or no epoch is over."


def accuracy_by_depth(
    pairs: list[tuple[dict[str, Any], Run]], lines: list[dict[str, Any]], levels: list
) -> list[Picture]:
    """Test accuracy of every block by itself, a curve per line of the comparison; `levels` lie across the plot."""
    colours = plots.rule_colours(lines)
    curves = []
    for i, line in enumerate(lines):
        key = f"block_test_{line['measure'].name}"
        tests = [row.get(key) or [] for row, _ in pairs if condition(row) == line["condition"]]
        depth = max(map(len, tests), default=0)
        means = [mean(test[k] for test in tests if k < len(test)) for k in range(depth)]
        marker = plots.MARKERS[i % len(plots.MARKERS)]
        known = [value for value in means if value is not None]
        # One known block (backprop, whose inner blocks predict nothing) is a level, not a curve over depth.
        if len(known) > 1:
            curves.append(plots.depth_curve(line["label"], means, colours[line["label"]], marker))
        elif known:
            dashed = line["rule"] != BACKPROP
            curves.append(plots.Curve(line["label"], known, colour=colours[line["label"]], dashed=dashed))
    measure = measure_of(lines)
    limits = plots.PERCENT if measure.percent else plots.FREE
    figure = plots.line_plot([*curves, *levels], "block", f"test {measure.heading}", limits)
    return _pictures([("depth", figure, f"Test {_word(measure)} of the prediction that every block makes by itself.")])


def together_level(row: dict[str, Any]) -> list[plots.Curve]:
    """The ensemble as a level across the plot over depth."""
    value = row.get(f"combined_test_{main_of([row], 'test_').name}")
    return [] if value is None else [plots.Curve("ensemble", [value], colour="#009E73", dashed=True)]


def _word(measure: Measure) -> str:
    return "accuracy" if measure.name == "top1" else measure.title


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
