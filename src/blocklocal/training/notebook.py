"""What a `Trainer` shows in a notebook: a table of the blocks and a curve, epoch by epoch; elsewhere lines of text."""

import sys
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from blocklocal.training.callbacks import Callback, Record

if TYPE_CHECKING:
    from blocklocal.training.loop import Trainer

WIDTH, HEIGHT, EDGE = 420, 140, 30  # of the curve, in pixels
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
MOST_LINES = 8  # of a deep network the first and the last blocks
NOTHING = "–"
COLUMNS = (("loss", "loss", 3), ("train %", "train_top1", 1), ("validation %", "validation_top1", 1))


def in_notebook() -> bool:
    """Whether this Python is behind a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell"


class Shown(Callback):
    """Shows every epoch: in a notebook as a table and a curve that are drawn anew, elsewhere as a line."""

    def __init__(self) -> None:
        self._handle: Any = None

    def start(self, trainer: "Trainer") -> None:
        self._handle = None

    def epoch(self, trainer: "Trainer", record: Record) -> None:
        if not in_notebook():
            print(line(record, trainer.epochs), flush=True)
            return
        from IPython.display import HTML, display

        page = HTML(html(trainer.records, trainer.epochs))
        if self._handle is None:
            self._handle = display(page, display_id=True)
        else:
            self._handle.update(page)


def line(record: Record, epochs: int) -> str:
    """An epoch for a terminal or a log."""
    parts = [f"epoch {record['epoch']}/{epochs}"]
    for title, key, digits in COLUMNS:
        values = record[key]
        if any(value is not None for value in values):
            parts.append(" ".join([title, *(_number(values[k], digits) for k in _blocks(len(values)))]))
    return "  ".join(parts)


def html(records: Sequence[Record], epochs: int) -> str:
    """The last epoch as a table with a row per block, and below it the curve of all epochs."""
    last = records[-1]
    head = "".join(f"<th>{escape(title)}</th>" for title, _, _ in (("block", "", 0), *COLUMNS))
    rows = ""
    for k in _blocks(len(last["loss"])):
        cells = "".join(f"<td>{_number(last[key][k], digits)}</td>" for _, key, digits in COLUMNS)
        rows += f"<tr><td>{k + 1}</td>{cells}</tr>"
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return f"<div><b>epoch {last['epoch']}/{epochs}</b>{table}{curve(records)}</div>"


def curve(records: Sequence[Record]) -> str:
    """Validation accuracy of the blocks over the epochs, or their losses where there is no validation, as SVG."""
    key = "validation_top1" if records[-1]["validation_top1"][-1] is not None else "loss"
    series = [(k, [record[key][k] for record in records]) for k in _blocks(len(records[-1][key]))]
    known = [value for _, values in series for value in values if value is not None]
    if len(records) < 2 or not known:
        return ""
    low, high = min(known), max(known)
    lines = "".join(
        f'<polyline fill="none" stroke="{COLOURS[k % len(COLOURS)]}" stroke-width="1.5" '
        f'points="{_points(values, low, high)}"><title>block {k + 1}</title></polyline>'
        for k, values in series
        if None not in values
    )
    name = "validation %" if key == "validation_top1" else "loss"
    texts = f'<text x="2" y="12">{name}</text><text x="2" y="{EDGE}">{high:.3g}</text>'
    texts += f'<text x="2" y="{HEIGHT - EDGE}">{low:.3g}</text><text x="{WIDTH - 70}" y="{HEIGHT - 8}">epochs</text>'
    return f'<svg width="{WIDTH}" height="{HEIGHT}" font-size="11" role="img" aria-label="{name}">{lines}{texts}</svg>'


def _points(values: Sequence[float], low: float, high: float) -> str:
    across, up = WIDTH - 2 * EDGE, HEIGHT - 2 * EDGE
    spread = (high - low) or 1.0
    return " ".join(
        f"{EDGE + across * t / (len(values) - 1):.1f},{HEIGHT - EDGE - up * (value - low) / spread:.1f}"
        for t, value in enumerate(values)
    )


def _blocks(count: int) -> list[int]:
    half = MOST_LINES // 2
    return list(range(count)) if count <= MOST_LINES else [*range(half), *range(count - half, count)]


def _number(value: float | None, digits: int) -> str:
    return NOTHING if value is None else f"{value:.{digits}f}"
