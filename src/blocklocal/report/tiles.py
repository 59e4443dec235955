"""The figures at the top of a page, a tile each."""

from typing import Any

from blocklocal.report.table import NOTHING, condition, mean_spread, number

FIGURES = (
    ("test_top1", "test top-1", 1, " %"),
    ("test_mean_iou", "test mean IoU", 1, " %"),
    ("test_rmse", "test RMSE", 3, ""),
    ("combined_test_rmse", "ensemble of all blocks, test RMSE", 3, ""),
    ("test_mae", "test MAE", 3, ""),
    ("test_r2", "test R²", 3, ""),
    ("train_rmse", "training RMSE", 3, ""),
    ("validation_rmse", "validation RMSE", 3, ""),
    ("combined_test_top1", "ensemble of all blocks, test top-1", 1, " %"),
    ("test_top3", "test top-3", 1, " %"),
    ("train_top1", "training top-1", 1, " %"),
    ("validation_top1", "validation top-1", 1, " %"),
    ("test_nll", "negative log-likelihood (test)", 3, " nat"),
    ("test_ece", "expected calibration error (test, 0 to 1)", 3, ""),
)
Tile = tuple[str, str, str]
"""What, how much, and a note (or nothing)."""


def run_tiles(row: dict[str, Any]) -> list[Tile]:
    """The figures of one run, as far as they are known."""
    known = [
        (label, f"{number(row[key], digits)}{unit}", "")
        for key, label, digits, unit in FIGURES
        if row.get(key) is not None
    ]
    parameters = row.get("parameters")
    return [*known, ("parameters", f"{parameters:,}", "")] if isinstance(parameters, int) else known


def rule_tiles(lines: list[dict[str, Any]], rows: list[dict[str, Any]]) -> list[Tile]:
    """A tile per rule: its test accuracy, and below it that of its ensemble."""
    tiles = []
    for line in lines:
        own = [row for row in rows if condition(row) == line["condition"] and row.get("finished", True)]
        measure = line["measure"]
        together = mean_spread((row.get(f"combined_test_{measure.name}") for row in own), measure.digits)
        note = "" if together == NOTHING else f"ensemble: {together}{measure.unit}".replace(" ±", "\u00a0±")
        if line["n"]:
            tests = mean_spread(line["tests"], measure.digits)
            tiles.append((line["label"], f"{tests}{measure.unit}", note))
    return tiles
