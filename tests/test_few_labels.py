"""experiments/few_labels: a row per way, and a check that says what is short."""

import json
import sys

import pytest

command = pytest.importorskip("experiments.few_labels.command")


@pytest.mark.usefixtures("no_reports")
def test_the_small_size_leaves_a_row_per_way_and_goes_on(tmp_path, monkeypatch):
    file = tmp_path / "rows.json"
    given = ["few_labels", "--case", "digits", "--size", "small", "--json", str(file), "--runs", str(tmp_path / "runs")]
    monkeypatch.setattr(sys, "argv", [*given, "--only", "all", "labelled", "backprop", "both", "--search"])
    assert command.main() == 0
    rows = json.loads(file.read_text())
    assert [row["way"] for row in rows] == ["all", "labelled", "backprop", "both"]
    assert all(row["part"] == "validation" for row in rows)
    config = json.loads((tmp_path / "runs/digits/small-labelled-0.1-seed0/config.json").read_text())
    assert config["epochs"] == 10  # of a tenth of the images
    assert json.loads((tmp_path / "runs/digits/small-both-0.1-seed0/config.json").read_text())["barlow"] > 0
    assert command.main() == 0
    assert [row["right"] for row in json.loads(file.read_text())] == [row["right"] for row in rows]


def test_the_check_names_what_is_less_than_a_third():
    rows = [{"way": way, "right": [None, right]} for way, right in (("all", 90), ("labelled", 84), ("barlow", 85))]
    assert "17 % of the distance from 84.00 to 90.00 %" in command.shortfalls(rows)[0]
    assert command.shortfalls([*rows, {"way": "consistency", "right": [None, 86.1]}]) == []
