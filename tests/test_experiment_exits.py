"""experiments/exits: a row per way with its exits, and a check that says what is short."""

import json
import sys

import pytest

command = pytest.importorskip("experiments.exits.command")
cases = pytest.importorskip("experiments.exits.cases")


@pytest.mark.usefixtures("no_reports")
def test_the_small_size_leaves_a_row_per_way(tmp_path, monkeypatch):
    file = tmp_path / "rows.json"
    given = ["exits", "--case", "digits", "--size", "small", "--json", str(file), "--runs", str(tmp_path / "runs")]
    monkeypatch.setattr(sys, "argv", given)
    assert command.main() == 0
    rows = {row["way"]: row for row in json.loads(file.read_text())}
    assert set(rows) == set(cases.WAYS)
    assert rows["ensemble"]["cost"] == 4
    assert rows["backprop"]["exits"] == rows["frozen"]["exits"] == {}
    for way in ("block-local", "deep-supervision"):
        assert rows[way]["exits"]["1"]["cost"] <= 1.3
        assert len(rows[way]["right"]) == 4
        assert "disagreement" in rows[way]["foreign"]
        assert len(rows[way]["ece_unused"]) == 4
        assert rows[way]["together"] is not None
    assert len(list((tmp_path / "runs" / "digits").iterdir())) == 8  # 4 of backprop, which is also the first's
    assert command.main() == 0  # the runs are there: it goes on
    assert [row["right"] for row in json.loads(file.read_text())] == [row["right"] for row in rows.values()]


def row(way: str, together: float, half: float, ece: float = 0.005, aurc: float = 0.02) -> dict:
    exits = {"0.5": {"right": half}, "0.25": {"right": half - 1}}
    return {
        "case": "fashion",
        "way": way,
        "together": together,
        "exits": exits,
        "ece": [None, ece],
        "aurc": aurc,
        "aurc_together": aurc,
        "coverage": {"threshold": 0.9, "adaptive": 0.9},
    }


def test_the_check_names_what_is_not_reached():
    peer, ensemble = row("deep-supervision", 88, 87), {**row("ensemble", 90, 0), "exits": {}}
    assert command.shortfalls([row("block-local", 90, 89.8), peer, ensemble]) == []
    uncovered = {**row("block-local", 90, 89.8), "coverage": {"threshold": 0.88, "adaptive": 0.9}}
    assert "threshold sets hold 0.880" in command.shortfalls([uncovered, peer, ensemble])[0]
    for short in (
        row("block-local", 90, 89.6),
        row("block-local", 87, 87, 0.005),
        row("block-local", 90, 89.9, 0.02),
        row("block-local", 90, 89.9, 0.005, 0.03),
    ):
        assert command.shortfalls([short, peer, ensemble])


def test_the_tables_have_means_and_deviations_of_the_seeds():
    table = pytest.importorskip("experiments.exits.table")
    more = {
        "right": [None, 91.0],
        "ece_before": [None, 0.02],
        "ece_unused": [],
        "ece_together": None,
        "foreign": {"largest": 0.5},
    }
    first = {**row("backprop", 0, 0, aurc=0.02), **more, "together": None, "exits": {}, "aurc_together": None}
    second = {**first, "right": [None, 92.0]}
    lines = table.tables([first, second])
    assert lines[2] == "| backprop (2) | 91.50 ± 0.71 | – | – | – | – | – |"
    assert lines[-1] == "| backprop | – 0.0050 | – 0.0200 | – | – | 20.00 ± 0.00 | – | 0.500 ± 0.000 | – | – |"
