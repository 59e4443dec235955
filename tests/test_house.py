"""Oracle: the source. Rooms of the package stand on each other; no import goes up, also not inside a function."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "blocklocal"
ROOMS = (
    "_common", "schemas", "families", "models", "adapters", "splitting", "block", "rules", "uncertainty", "data",
    "network", "exits", "training", "timeline", "streaming", "report", "runs", "parallel", "diagnose", "simulate",
    "cli",
)  # fmt: skip
ENTRANCES = {"parallel/rank.py"}  # the script with which a process starts: it runs a command


def imported(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def above(file: Path) -> list[str]:
    """What a file of a room imports from rooms above it, or from outside the package."""
    here = ROOMS.index(file.relative_to(PACKAGE).parts[0])
    parts = [name.split(".") for name in imported(file)]
    up = [".".join(p) for p in parts if p[0] == "blocklocal" and p[1:2] and p[1] in ROOMS and ROOMS.index(p[1]) > here]
    return up + [".".join(p) for p in parts if p[0] in ("experiments", "benchmarks", "tests")]


def test_every_folder_of_the_package_has_its_place() -> None:
    assert {p.name for p in PACKAGE.iterdir() if p.is_dir() and p.name != "__pycache__"} == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_no_import_of_a_room_goes_up(room: str) -> None:
    files = [file for file in (PACKAGE / room).rglob("*.py") if str(file.relative_to(PACKAGE)) not in ENTRANCES]
    assert {str(file): up for file in files if (up := above(file))} == {}
