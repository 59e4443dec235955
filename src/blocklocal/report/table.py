"""Runs into a comparison: mean and deviation over seeds, the gap to backprop and the height above the frozen control.

A block-local figure counts by how far it lies above the frozen control, towards backprop: both are always columns.
"""

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import fields
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from blocklocal._common.errors import InputError
from blocklocal._common.measures import TOP1, Measure, main_of
from blocklocal.network.settings import Learning
from blocklocal.schemas.run import SUMMARISED

if TYPE_CHECKING:
    from rich.console import Console

BACKPROP, CONTROL = "backprop", "frozen"
# Runs are averaged only over the seed: a difference in any of these makes another line of the table.
LEARNING = {f.name: f.default for f in fields(Learning) if f.name != "rule"}
VARIANT = (*LEARNING, *SUMMARISED, "model", "width", "blocks", "data", "train_size", "test_size", "epochs")
USUAL = {**LEARNING, **SUMMARISED}
# What must agree before two lines are subtracted. The control freezes all blocks but the last, so its cuts count too.
SAME = (*SUMMARISED, "data", "model", "width", "train_size", "test_size", "epochs")
NOTHING = "–"
NARROW = 100  # console columns below which the table is folded
HEADINGS = ("rule", "test %", "gap to backprop", "above control", "train %", "ECE", "seconds")


def condition(row: dict[str, Any]) -> str:
    """A key that two runs share when they differ in the seed only."""
    return json.dumps([row.get("rule"), *(_of(row, key) for key in VARIANT)], sort_keys=True, default=str)


def _of(row: dict[str, Any], key: str) -> Any:
    """A setting of a run: what it usually is where the run has no use for it, or does not name it."""
    value = row.get(key)
    return USUAL.get(key) if value is None else value


def aggregate(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """One dict per rule (and per variant of it), best mean first.

    What is not known is None; a gap is given only between lines with the same settings of data and model (`SAME`).

    Returns:
        Dicts with label, rule, condition, measure, n (seeds counted), seeds, tests (test top-1 per seed in %, or
        another measure), test_mean (%), test_deviation (sample deviation over seeds, %; None for one seed), train_mean
        (%), ece_mean (0 to 1), seconds_mean, backprop_mean and control_mean (%), gap_to_backprop and above_control
        (differences of means in percentage points, or in the unit of an error; above 0 is better), unfinished (runs
        left out of the means), repeated (runs replaced by a later one of their seed).

    Raises:
        InputError: a row has no rule.
    """
    rows = list(rows)
    if any(not isinstance(row, dict) or not isinstance(row.get("rule"), str) for row in rows):
        raise InputError(
            "a row to compare has no rule. Expected run summaries (summary.json), each with rule and seed."
        )
    grouped: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        grouped.setdefault(condition(row), []).append(row)
    lines = [_line(key, group) for key, group in grouped.items()]
    _label(lines)
    for line in lines:
        _refer(line, lines)
    ordered = sorted(
        lines,
        key=lambda line: -math.inf if line["test_mean"] is None else _better(line, line["test_mean"]),
        reverse=True,
    )
    return [{key: value for key, value in line.items() if key != "first"} for line in ordered]


def _line(key: str, group: Sequence[dict[str, Any]]) -> dict[str, Any]:
    latest = list({row.get("seed", f"run {i}"): row for i, row in enumerate(group)}.values())
    measure = main_of(latest, "test_")
    done = [row for row in latest if row.get("finished", True) and _known(row.get(f"test_{measure.name}"))]
    tests = [float(row[f"test_{measure.name}"]) for row in done]
    return {
        "label": group[0]["rule"],
        "rule": group[0]["rule"],
        "condition": key,
        "measure": measure,
        "first": group[0],
        "n": len(done),
        "seeds": [row.get("seed") for row in done],
        "tests": tests,
        "test_mean": mean(tests),
        "test_deviation": statistics.stdev(tests) if len(tests) > 1 else None,
        "train_mean": mean(row.get(f"train_{measure.name}") for row in done),
        "ece_mean": mean(row.get("test_ece") for row in done),
        "seconds_mean": mean(row.get("seconds") for row in done),
        "unfinished": len(latest) - len(done),
        "repeated": len(group) - len(latest),
    }


def _known(value: Any) -> bool:
    return value is not None and math.isfinite(value)


def mean(values: Iterable[float | None]) -> float | None:
    """Mean of the values that are known and finite; None when there is none."""
    known = [float(value) for value in values if value is not None and math.isfinite(value)]
    return statistics.fmean(known) if known else None


def _label(lines: list[dict[str, Any]]) -> None:
    """Name what tells the variants of one rule apart, and nothing else: not the settings left at their defaults."""
    for line in lines:
        alike = [other["first"] for other in lines if other["rule"] == line["rule"]]
        differing = [key for key in VARIANT if len({json.dumps(_of(row, key), default=str) for row in alike}) > 1]
        shown = {key: _of(line["first"], key) for key in differing}
        parts = [f"{key} {_plain(v)}" for key, v in shown.items() if key not in USUAL or v != USUAL[key]]
        if parts:
            line["label"] += f" ({', '.join(parts)})"


def _plain(value: object) -> str:
    return "none" if value is None else str(value)


def _refer(line: dict[str, Any], lines: list[dict[str, Any]]) -> None:
    for rule, keys, base, gap in (
        (BACKPROP, SAME, "backprop_mean", "gap_to_backprop"),
        (CONTROL, (*SAME, "blocks"), "control_mean", "above_control"),
    ):
        reference = _reference(line, lines, rule, keys)
        line[base] = reference
        known = reference is not None and line["test_mean"] is not None and line["rule"] != rule
        line[gap] = _better(line, line["test_mean"] - reference) if known else None


def _better(line: dict[str, Any], value: float) -> float:
    """The figure, or difference, with the sign by which more is better."""
    return value if line["measure"].higher else -value


def measure_of(lines: Sequence[dict[str, Any]]) -> Measure:
    """What the lines of a comparison were measured by."""
    return next((line["measure"] for line in lines if line["tests"]), TOP1)


def headings(lines: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    """Of the table: `HEADINGS`, with the name of another measure than the accuracy, and ECE where it is known."""
    measure = measure_of(lines)
    shown = HEADINGS if measure.percent else tuple(text.replace("%", measure.title) for text in HEADINGS)
    return tuple(text for text in shown if text != "ECE" or _has_ece(lines))


def _has_ece(lines: Sequence[dict[str, Any]]) -> bool:
    return any(line["ece_mean"] is not None for line in lines)


def _reference(line: dict[str, Any], lines: list[dict[str, Any]], rule: str, keys: Sequence[str]) -> float | None:
    # Backprop may be stored as one block: its cuts do not matter, so for a backprop line the control's need not agree.
    keys = [key for key in keys if key != "blocks" or line["rule"] != BACKPROP]
    means = [
        other["test_mean"]
        for other in lines
        if other["rule"] == rule and all(_of(other["first"], key) == _of(line["first"], key) for key in keys)
    ]
    # Two references that differ in some further setting: none of them is *the* reference.
    return means[0] if len(means) == 1 else None


def number(value: float | None, digits: int = 1, *, sign: bool = False) -> str:
    """A figure as text; a dash where it is not known."""
    if value is None:
        return NOTHING
    return f"{value:{'+' if sign else ''}.{digits}f}"


def mean_spread(values: Iterable[float | None], digits: int = 1) -> str:
    """`74.0 ± 0.5`: mean and sample deviation of the values that are known; a single one has no deviation."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    deviation = f" ± {number(statistics.stdev(known), digits)}" if len(known) > 1 else ""
    return number(mean(known), digits) + deviation


def spread(line: dict[str, Any]) -> str:
    """`74.0 ± 0.5 (3 seeds)`; without a deviation for one seed, where there is none."""
    if not line["n"]:
        return f"{NOTHING} (not finished)"
    return f"{mean_spread(line['tests'], line['measure'].digits)} ({line['n']} {'seed' if line['n'] == 1 else 'seeds'})"


def body(lines: Sequence[dict[str, Any]]) -> list[list[str]]:
    """The text of the table, a row per line, under its `headings`."""
    return [_cells(line, ece=_has_ece(lines)) for line in lines]


def _cells(line: dict[str, Any], *, ece: bool) -> list[str]:
    digits = line["measure"].digits
    return [
        line["label"],
        spread(line),
        number(line["gap_to_backprop"], digits, sign=True),
        number(line["above_control"], digits, sign=True),
        number(line["train_mean"], digits),
        *([number(line["ece_mean"], 3)] if ece else []),
        number(line["seconds_mean"]),
    ]


def notes(lines: Iterable[dict[str, Any]]) -> list[str]:
    """What was left out of the table, a sentence each."""
    texts = []
    for line in lines:
        if line["unfinished"]:
            texts.append(f"{line['label']}: {line['unfinished']} unfinished, not in the mean.")
        if line["repeated"]:
            texts.append(f"{line['label']}: {line['repeated']} run(s) of a seed that ran again; the last one counts.")
    return texts


def markdown_table(rows: Iterable[dict[str, Any]]) -> str:
    """The comparison as a Markdown table (for a README), from run summaries."""
    lines = aggregate(rows)
    table = markdown_lines(headings(lines), body(lines))
    return "\n\n".join([table, *notes(lines)]) + "\n"


def markdown_lines(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table: the first column to the left, figures to the right."""
    text = [headings, ("---", *("---:" for _ in headings[1:])), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in text)


def comparison_table(rows: Iterable[dict[str, Any]], console: "Console") -> None:
    """Print the comparison on a rich console, from run summaries."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    lines = aggregate(rows)
    narrow = console.width < NARROW
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    for i, heading in enumerate(headings(lines)):
        text = heading.replace(" b", "\nb").replace(" c", "\nc") if narrow else heading
        table.add_column(text, justify="right" if i else "left", no_wrap=True)
    for rule, test, *others in body(lines):
        if narrow:  # broken where a reader would break it: names at hyphens, the number of seeds below its figure
            rule, test = "\n".join(wrap(rule, 18)), test.replace(" (", "\n(")
        table.add_row(*(Text(cell) for cell in (rule, test, *others)))
    console.print(table)
    for note in notes(lines):
        console.print(Text(note))
