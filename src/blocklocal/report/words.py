"""The sentences of a report: a figure never stands without its conditions, nor without its control."""

import re
from collections.abc import Sequence
from typing import Any

from blocklocal._common.measures import TOP1, Measure
from blocklocal.report.table import BACKPROP, CONTROL, LEARNING, NOTHING, measure_of, number, spread
from blocklocal.schemas.run import SUMMARISED

NAMED = {**SUMMARISED, "consistency": LEARNING["consistency"], "barlow": LEARNING["barlow"]}
"""Settings, by what they usually are, that are named where a run has another."""
CONDITIONS = (
    ("data", "data {}"),
    ("train_size", "{} training samples"),
    ("test_size", "{} test samples"),
    ("model", "model {}"),
    ("width", "width {}"),
    ("blocks", "{} block(s)"),
    ("processes", "{} process(es)"),
    ("objective", "objective {}"),
    ("family", "family {}"),
    ("scope", "scope {}"),
    ("readout", "readout {}"),
    ("reconstruction", "reconstruction {}"),
    *((name, f"{name.replace('_', ' ')} {{}}") for name in NAMED),
    ("epochs", "{} epoch(s)"),
    ("seed", "seed {}"),
    ("threads", "{} thread(s)"),
    ("device", "device {}"),
    ("torch", "torch {}"),
)


def duration(seconds: float | None) -> str:
    """Seconds as people say them: `1.9 s`, `3 min 12 s`, `2 h 05 min`."""
    if seconds is None:
        return NOTHING
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def conditions(rows: Sequence[dict[str, Any]]) -> str:
    """Under what the figures of these runs were measured; where the runs differ, every value is named."""
    parts = []
    for key, form in CONDITIONS:
        known = [row[key] for row in rows if row.get(key) is not None]
        if key in NAMED:
            known = [NAMED[key] if row.get(key) is None else row[key] for row in rows]
        values = list(dict.fromkeys(map(_text, known)))
        if values and (key not in NAMED or set(known) != {NAMED[key]}):
            parts.append(re.sub(r"\((e?s)\)", "" if values == ["1"] else r"\1", form.format(" / ".join(values))))
    times = [row["seconds"] for row in rows if row.get("seconds") is not None]
    if times:
        low, high = duration(min(times)), duration(max(times))
        parts.append(f"time {low}" if low == high else f"time per run {low} to {high}")
    return ", ".join(parts)


def measured_with(rows: Sequence[dict[str, Any]]) -> str:
    """The conditions that every experiment has, whatever it measures, as a sentence."""
    kept = ("epochs", "seed", "threads", "device", "torch", "seconds")
    return f"Measured with: {conditions([{key: row.get(key) for key in kept} for row in rows])}."


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or value == "":
        return "none"
    return f"{value:,}" if isinstance(value, int) and value >= 10_000 else str(value)


def run_headline(row: dict[str, Any], done: int, validation: float | None, measure: Measure = TOP1) -> str:
    """The result of one run in one sentence; `done` epochs are recorded, `validation` is the last one known."""
    rule, accuracy = row.get("rule", "this run"), row.get(f"test_{measure.name}")
    if accuracy is not None:
        partly = "" if row.get("finished", True) else f", after {done} of {_total(row)} epochs"
        figure = number(accuracy, measure.digits)
        said = f"{figure} % test {measure.title}" if measure.percent else f"test {measure.title} {figure}"
        return f"{rule}: {said}{partly}."
    figure = f"validation {measure.title} {number(validation, measure.digits)}{measure.unit}"
    so_far = f"; {figure} so far" if validation is not None else ""
    return f"{rule}: not finished, {done} of {_total(row)} epochs done{so_far}. The test set was not read yet."


def _total(row: dict[str, Any]) -> str:
    return str(row.get("epochs") or "?")


def comparison_headline(lines: Sequence[dict[str, Any]]) -> str:
    """Every rule with its test accuracy, in one sentence."""
    measure = measure_of(lines)
    title = "Test top-1 in %" if measure.percent else f"Test {measure.title}"
    return f"{title}: " + "; ".join(f"{line['label']} {spread(line)}" for line in lines) + "."


def verdict(line: dict[str, Any]) -> str:
    """Where one line of the comparison stands between control and backprop, or which of them is missing."""
    if line["test_mean"] is None or line["rule"] in (BACKPROP, CONTROL):
        return ""
    parts = []
    if line["above_control"] is not None:
        parts.append(f"{_distance(line, 'above_control')} the frozen control ({_figure(line, 'control_mean')})")
    if line["gap_to_backprop"] is not None:
        parts.append(f"{_distance(line, 'gap_to_backprop')} backprop ({_figure(line, 'backprop_mean')})")
    # The mean over seeds is compared, which is not the figure of the one run that a page may be about.
    text = f"{line['label']}, at {spread(line)}, is {' and '.join(parts)}." if parts else ""
    names = (("control_mean", "the frozen control"), ("backprop_mean", "backprop"))
    missing = [name for key, name in names if line[key] is None]
    if not missing:
        return text
    return f"{text} No comparable run of {' or of '.join(missing)} is known beside {line['label']}.".strip()


def _figure(line: dict[str, Any], key: str) -> str:
    return f"{number(line[key], line['measure'].digits)}{line['measure'].unit}"


def _distance(line: dict[str, Any], key: str) -> str:
    points, measure = line[key], line["measure"]
    size = number(abs(points), measure.digits)
    if size == number(0.0, measure.digits):
        return "level with"
    if not measure.percent:
        return f"{size} {'better' if points > 0 else 'worse'} than"
    return f"{size} points {'above' if points > 0 else 'below'}"
