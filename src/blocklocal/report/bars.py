"""Test accuracies beside each other as bars from 0 to 100 %: what differs by little must look as if it did."""

from collections.abc import Sequence
from typing import Any

from blocklocal.report.table import BACKPROP, CONTROL, mean_spread

KINDS = {BACKPROP: "backprop", CONTROL: "control"}


def accuracy_bars(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A bar per line of a comparison (`aggregate`), as the template draws it; none where there is only one line.

    Returns:
        Dicts with label, kind (of colour), value (text), mean and, where there are several seeds, seeds (percent).
    """
    known = [line for line in lines if line["tests"]]
    if len(known) < 2:
        return []
    return [
        {
            "label": line["label"],
            "kind": KINDS.get(line["rule"], "rule"),
            "value": f"{mean_spread(line['tests'])} %",
            "mean": round(line["test_mean"], 2),
            "seeds": [round(test, 2) for test in line["tests"]] if len(line["tests"]) > 1 else [],
        }
        for line in known
    ]
