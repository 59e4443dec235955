"""The rows of the experiment as the tables of `docs/measured.md`: `python -m experiments.exits.table ROWS.json …`."""

import json
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import Row
from experiments.exits.measure import BUDGETS

NAMES = {
    "backprop": "backprop",
    "deep-supervision": "deep supervision",
    "ensemble": "four backprop networks",
    "block-local": "block-local",
    "block-local-1": "block-local, readouts of one layer",
    "frozen": "frozen control",
}
EARLY = tuple(f"{budget:g}" for budget in BUDGETS if budget < 1)
ABSENT = "–"


def tables(rows: Sequence[Row]) -> list[str]:
    """The lines of two tables, of what is right and of what confidences are worth, for the rows of one case."""
    ways = [(name, [row for row in rows if row["way"] == way]) for way, name in NAMES.items()]
    known = [(name, found) for name, found in ways if found]
    right = [[f"{name} ({len(found)})", *_right(found)] for name, found in known]
    sure = [[name, *_sure(found)] for name, found in known]
    percents = [f"{100 * float(budget):g} %" for budget in EARLY]
    heads = ["", "output %", "all blocks %", f"{percents[0]} of the FLOPs", *percents[1:], "time at these"]
    words = ["", "ECE of each block", "before", "unused images", "ECE of all blocks", "AURC of the output"]
    words += ["AURC of all blocks", "foreign: largest", "energy", "disagreement"]
    return [*_markdown(heads, right), "", *_markdown(words, sure)]


def _right(rows: Sequence[Row]) -> list[str]:
    early = [_mean(rows, lambda row, b=budget: row["exits"].get(b, {}).get("right")) for budget in EARLY]
    times = [_mean(rows, lambda row, b=budget: row["exits"].get(b, {}).get("time"), 2, False) for budget in EARLY]
    return [
        _mean(rows, lambda row: row["right"][-1]),
        _mean(rows, lambda row: row["together"]),
        *early,
        " ".join(times) if set(times) != {ABSENT} else ABSENT,
    ]


def _sure(rows: Sequence[Row]) -> list[str]:
    return [
        *(_each(rows, name) for name in ("ece", "ece_before", "ece_unused")),
        _mean(rows, lambda row: row["ece_together"], 4, False),
        _mean(rows, lambda row: 1000 * row["aurc"]),
        _mean(rows, lambda row: None if row["aurc_together"] is None else 1000 * row["aurc_together"]),
        *(
            _mean(rows, lambda row, s=score: row["foreign"].get(s), 3)
            for score in ("largest", "energy", "disagreement")
        ),
    ]


def _each(rows: Sequence[Row], name: str) -> str:
    """Of every block, the mean over the seeds."""
    blocks = range(len(rows[0][name]))
    if not blocks:
        return ABSENT
    return " ".join(_mean(rows, lambda row, k=k: row[name][k], 4, False) for k in blocks)


def _mean(rows: Sequence[Row], read: Callable[[Row], Any], digits: int = 2, deviation: bool = True) -> str:
    """Over the seeds, with the deviation where there are several."""
    found = [value for row in rows if (value := read(row)) is not None]
    if not found:
        return ABSENT
    spread = f" ± {statistics.stdev(found):.{digits}f}" if deviation and len(found) > 1 else ""
    return f"{statistics.fmean(found):.{digits}f}{spread}"


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return ["| " + " | ".join(cells) + " |" for cells in lines]


def main(paths: Sequence[str]) -> int:
    rows = [row for path in paths for row in json.loads(Path(path).read_text())]
    for case in dict.fromkeys(row["case"] for row in rows):
        print("\n".join([f"{case}:", "", *tables([row for row in rows if row["case"] == case]), ""]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
