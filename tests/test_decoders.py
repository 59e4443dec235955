"""experiments/decoders: a row per way, equal beginnings, and a check that says what is short."""

import json
import sys
from pathlib import Path

import pytest
import torch

from experiments.decoders import command
from experiments.decoders.ways import SIZES, WAYS


@pytest.fixture
def text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BLOCKLOCAL_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "texts"
    folder.mkdir()
    for i in range(60):
        (folder / f"{i}.txt").write_text(f"The text of the number {i} has words, and {i + 1} more. " * 12)
    return folder


def run(text: Path, monkeypatch: pytest.MonkeyPatch, *flags: str) -> int:
    given = ["decoders", "--text", str(text), "--size", "small", "--rounds", "1", "--steps", "1", *flags]
    monkeypatch.setattr(sys, "argv", given)
    return command.main()


def test_the_small_size_leaves_a_row_per_way_with_its_costs(text, tmp_path, monkeypatch):
    file = tmp_path / "rows.json"
    only = ["--only", "shared-2", "backprop", "frozen-2"]
    assert run(text, monkeypatch, *only, "--json", str(file)) == 0
    rows = {row["way"]: row for row in json.loads(file.read_text())}
    assert set(rows) == set(only[1:])
    assert all(row["test"]["perplexity"][-1] > 1 for row in rows.values())
    assert rows["backprop"]["flops_ratio"] == 1
    assert rows["frozen-2"]["flops_ratio"] < 1 < rows["shared-2"]["flops_ratio"]
    assert len(rows["shared-2"]["test"]["bits_per_byte"]) == 2
    assert rows["frozen-2"]["test"]["bits_per_byte"][0] is None
    assert 0 <= rows["shared-2"]["test"]["agreement"] <= 100


def test_a_search_leaves_the_test_part_unread(text, monkeypatch, capsys):
    assert run(text, monkeypatch, "--search", "--only", "backprop") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(WAYS["backprop"].tried)
    assert all("validation perplexity" in line and "test" not in line for line in lines)


def test_all_ways_begin_with_the_same_weights():
    built = [WAYS[name].build(SIZES["small"], 3.0, 1).split.model.state_dict() for name in ("backprop", "shared-2")]
    for name, weight in built[1].items():
        scale = WAYS["backprop"].embedding / WAYS["shared-2"].embedding if name == "embed_tokens.weight" else 1
        torch.testing.assert_close(built[0][name], weight * scale)


def rows_of(way: str, perplexity: float, *bits: float) -> dict:
    found = {"perplexity": [perplexity], "bits_per_byte": [*bits, 1.0]}
    return {"way": way, "seed": 0, "test": found}


def test_the_check_names_what_is_not_reached():
    base, control = rows_of("backprop", 100), rows_of("frozen-4", 200)
    good = [base, control, rows_of("shared-2", 102.9, 1.1), rows_of("shared-4", 107.9, 1.3, 1.2, 1.1)]
    assert command.shortfalls(good) == []
    short = [base, control, rows_of("shared-2", 103.1, 1.1), rows_of("shared-4", 121, 1.3, 1.3, 1.1)]
    lines = command.shortfalls(short)
    assert [line.partition(":")[0] for line in lines] == ["shared-2", "shared-4", "shared-4", "shared-4, seed 0"]
