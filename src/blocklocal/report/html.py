"""One HTML file per run or comparison: opens offline, readable on a phone, re-made at any time from the files alone."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from blocklocal._common.errors import InputError
from blocklocal._common.extras import needs
from blocklocal._common.files import write_text
from blocklocal._common.measures import Measure, main_of
from blocklocal._common.screen import printable
from blocklocal.report import gallery, plots, words
from blocklocal.report.bars import accuracy_bars
from blocklocal.report.classes import class_section
from blocklocal.report.embedded import check_png
from blocklocal.report.exits_section import exits_section
from blocklocal.report.intervals_section import intervals_section
from blocklocal.report.read import Run, read_comparison, read_run, run_folder
from blocklocal.report.table import NOTHING, aggregate, body, condition, headings, measure_of, notes, number
from blocklocal.report.tiles import rule_tiles, run_tiles
from blocklocal.report.timeline_section import timeline_section
from blocklocal.schemas.run import Example
from blocklocal.timeline.read import read_timeline

CONTENTS = {
    "result": "Result",
    "comparison": "Comparison",
    "learning": "Learning curves",
    "depth": "Blocks",
    "classes": "Classes",
    "messages": "Messages",
    "exits": "Exits and confidence",
    "intervals": "Values and intervals",
    "timeline": "Timeline",
    "examples": "Examples",
    "warnings": "Warnings",
    "settings": "Settings",
}

SOMETIMES = ("classes", "exits", "intervals", "timeline")  # sections that a page may lack


@needs("report")
def write_report(run: Path, *, beside: Sequence[Path] = ()) -> Path:
    """Write `report.html` into a run folder, finished or not, and return its path.

    Args:
        beside: run folders to compare with (backprop, the frozen control, other seeds); where the run lies in a compare
            folder, the runs of its compare.json are compared as well.

    Raises:
        InputError: a file is missing or damaged; the message names it, and what is expected in it.
    """
    folder = Path(run)
    data = read_run(folder)
    others = _siblings(folder) + [read_run(path).row for path in beside if Path(path).resolve() != folder.resolve()]
    return _write(folder / "report.html", _run_page(data, [row for row in others if "rule" in row]))


@needs("report")
def write_comparison(folder: Path) -> Path:
    """Write `report.html` into a compare folder, from its compare.json and the runs in it, and return its path.

    Raises:
        InputError: a file or run folder is missing or damaged; the message names it.
    """
    folder = Path(folder)
    rows = read_comparison(folder)
    runs = [read_run(_there(folder, run_folder(folder, row))) for row in rows]
    return _write(folder / "report.html", _comparison_page(folder, rows, runs))


def _there(comparison: Path, run: Path) -> Path:
    """The run folder itself. Raises InputError where it is gone."""
    if not run.is_dir():
        raise InputError(
            f"{comparison} lacks its run {run.name}, which its compare.json names: put the folder back, or train it "
            f"again (the same `blocklocal compare` with --resume --output {comparison})."
        )
    return run


def _siblings(folder: Path) -> list[dict[str, Any]]:
    parent = folder.resolve().parent
    if not (parent / "compare.json").exists():
        return []
    return [row for row in read_comparison(parent) if run_folder(parent, row).name != folder.resolve().name]


def _run_page(run: Run, others: list[dict[str, Any]]) -> dict[str, Any]:
    row = {"rule": "this run", **run.row}
    # A run without a test accuracy has nothing to compare, and its settings may not be complete yet.
    measure = main_of(run.epochs, "train_") if run.summary is None else main_of([row], "test_")
    lines = aggregate([*others, row] if row.get(f"test_{measure.name}") is not None else others)
    own = next((line for line in lines if line["condition"] == condition(row)), None)
    verdict = words.verdict(own) if own else ""
    timeline = read_timeline(run.path)
    last = (run.epochs[-1].get(f"validation_{measure.name}") or [None])[-1] if run.epochs else None
    seconds, together = row.get("seconds"), run.row.get(f"combined_test_{measure.name}")
    if seconds is None and run.epochs:
        seconds = sum(record.get("seconds") or 0.0 for record in run.epochs)
    return {
        "title": f"{row['rule']} on {row.get('data', 'unnamed data')}",
        "headline": words.run_headline(row, len(run.epochs), last, measure),
        "verdicts": [verdict] if verdict else [],
        "conditions": words.conditions([{**row, "seconds": seconds}]),
        "figures": run_tiles(row),
        **_table(lines),
        "compared": bool(others),
        "learning": gallery.learning_curves(run, "run"),
        "learning_missing": gallery.no_curves([run]),
        "depth": gallery.accuracy_by_depth([(row, run)], lines, [*plots.levels(own), *gallery.together_level(row)]),
        "blocks": _block_table(run),
        "together": "" if together is None else number(together, measure.digits),
        "measured": "%" if measure.percent else measure.title,
        "classes": _classes(run, measure),
        "messages": gallery.message_curves(run, "run"),
        "messages_missing": gallery.no_messages([run]),
        "exits": exits_section(run.path),
        "intervals": intervals_section(run.path),
        "timeline": timeline_section(timeline) if timeline else None,
        "examples": _examples(run),
        "examples_of": "",
        "warnings": run.warnings + (timeline.warnings if timeline else []),
        "settings": [("settings", _settings(run))],
    }


def _classes(run: Run, measure: Measure) -> list[tuple[str, Any]] | None:
    """What is counted per class; None where values are predicted, which have none."""
    if not measure.percent:
        return None
    return [("", found)] if (found := class_section(run.confusion)) else []


def _comparison_page(folder: Path, rows: list[dict[str, Any]], runs: list[Run]) -> dict[str, Any]:
    lines = aggregate(rows)
    local = [(f"{row['rule']}, seed {row.get('seed')}", run) for row, run in zip(rows, runs, strict=True)]
    first = {condition(row): pair for row, pair in reversed(list(zip(rows, local, strict=True)))}
    shown = [first[line["condition"]] for line in lines]
    speaking = next((pair for pair in shown if pair[1].examples.examples), None)
    verdicts = [words.verdict(line) for line in lines]
    return {
        "title": f"Learning rules compared on {rows[0].get('data', 'unnamed data')}",
        "headline": words.comparison_headline(lines),
        "verdicts": [text for text in verdicts if text],
        "conditions": words.conditions(rows),
        "figures": rule_tiles(lines, rows),
        **_table(lines),
        "compared": True,
        "learning": _of_each(gallery.learning_curves, shown),
        "depth": gallery.accuracy_by_depth(list(zip(rows, runs, strict=True)), lines, []),
        "learning_missing": gallery.no_curves([run for _, run in shown]),
        "blocks": [],
        "together": "",
        "measured": "%",
        "classes": [(name, found) for name, run in shown if (found := class_section(run.confusion))],
        "messages": _of_each(gallery.message_curves, shown),
        "messages_missing": gallery.no_messages([run for _, run in shown]),
        "exits": None,
        "intervals": None,
        "timeline": None,
        "examples": _examples(speaking[1]) if speaking else [],
        "examples_of": speaking[0] if speaking else "",
        "warnings": [f"{name}: {text}" for name, run in local for text in run.warnings],
        "settings": [(f"settings of {name}", _settings(run)) for name, run in local],
    }


def _of_each(curves: Callable[[Run, str, str], list[gallery.Picture]], shown: Sequence[tuple[str, Run]]) -> list:
    """The pictures that `curves` makes of every (name, run)."""
    return [picture for i, (name, run) in enumerate(shown) for picture in curves(run, f"run{i}", f"{name}: ")]


def _table(lines: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "headings": headings(lines),
        "rows": body(lines),
        "notes": notes(lines),
        "bars": accuracy_bars(lines) if measure_of(lines).percent else [],
    }


def _block_table(run: Run) -> list[list[str]]:
    """A row per block: number, name, loss, its parts, training, validation and test accuracy, mean |b|; last epoch."""
    if not run.epochs:
        return []
    measure = main_of(run.epochs, "train_")
    last, tests = run.epochs[-1], run.row.get(f"block_test_{measure.name}") or []
    unknown = [None] * run.blocks
    train, validation = (last.get(f"{split}_{measure.name}") or unknown for split in ("train", "validation"))
    rows = []
    for k, name in enumerate(run.block_names):
        accuracies = [train[k], validation[k], tests[k] if k < len(tests) else None]
        measured = [number(value, measure.digits) for value in accuracies]
        figures = [number(last["loss"][k], 3), _parts(last, k), *measured, number(last["message"][k], 4)]
        rows.append([str(k + 1), name, *figures])
    return rows


def _parts(record: dict[str, Any], k: int) -> str:
    parts = (record.get("parts") or [{}] * (k + 1))[k]
    return ", ".join(f"{key} {number(value, 3)}" for key, value in parts.items()) or NOTHING


def _examples(run: Run) -> list[dict[str, Any]]:
    path, names = run.path / "examples.json", run.examples.classes
    return [_example(path, i, example, names) for i, example in enumerate(run.examples.examples)]


def _example(path: Path, index: int, example: Example, names: list[str]) -> dict[str, Any]:
    try:
        check_png(example.png)
        blocks = [(b.block, _class(b.predicted, names), _percent(b.confidence)) for b in example.blocks]
        said, true = _class(example.predicted, names), _class(example.label, names)
    except ValueError as error:
        raise InputError(
            f"{path}: example {index + 1} is damaged ({error}). Expected png (base64), label, predicted, confidence "
            "and, per block, block, predicted and confidence."
        ) from error
    right, confidence = example.predicted == example.label, _percent(example.confidence)
    return {"png": example.png, "right": right, "said": said, "true": true, "confidence": confidence, "blocks": blocks}


def _class(index: int, names: list[str]) -> str:
    if not names:
        return str(index)
    if index >= len(names):
        raise ValueError(f"class {index} is not one of {len(names)} classes")
    return names[index]


def _percent(share: float | None) -> str:
    return "?" if share is None else f"{100 * share:.0f}"


def _settings(run: Run) -> list[tuple[str, str]]:
    return [(key, value if isinstance(value, str) else json.dumps(value)) for key, value in run.config.items()]


def _write(path: Path, page: dict[str, Any]) -> Path:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    contents = [(key, name) for key, name in CONTENTS.items() if key not in SOMETIMES or page[key] is not None]
    text = environment.get_template("report.html.jinja").render({**page, "contents": contents})
    write_text(path, printable(text))
    return path
