"""experiments/tuning: every way begins with the same trained weights, leaves a row, and a check says what is short."""

import json
import sys
from pathlib import Path

import pytest
import torch

from blocklocal.models.decoder import Decoder
from blocklocal.models.llama import save_llama

pytest.importorskip("transformers")
pytest.importorskip("peft")
command = pytest.importorskip("experiments.tuning.command")
ways = pytest.importorskip("experiments.tuning.ways")
pytestmark = pytest.mark.filterwarnings("ignore")  # of transformers, about itself


def texts(folder: Path, what: str) -> Path:
    folder.mkdir()
    for i in range(60):
        (folder / f"{i}.txt").write_text(f"The {what} of the number {i} has words, and {i + 1} more. " * 12)
    return folder


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("BLOCKLOCAL_CACHE", str(tmp_path / "cache"))
    old, new = texts(tmp_path / "old", "text"), texts(tmp_path / "new", "code")

    def run(*flags: str) -> list[dict]:
        named = ["tuning", "--text", str(old), "--onto", str(new), "--size", "small", "--rounds", "1", "--steps", "1"]
        monkeypatch.setattr(sys, "argv", [*named, *flags, "--json", str(tmp_path / "rows.json")])
        assert command.main() == 0
        return json.loads((tmp_path / "rows.json").read_text())

    return run


def test_the_small_size_leaves_a_row_per_way_with_its_costs(given):
    rows = {row["way"]: row for row in given()}
    assert set(rows) == set(ways.WAYS)
    assert all(row["new"][-1] > 1 and row["old"] > 1 and row["part"] == "test" for row in rows.values())
    assert len({row["before"] for row in rows.values()}) == 1
    assert rows["end-to-end"]["bytes_ratio"] == 1
    assert rows["frozen-2"]["flops_ratio"] < 1 < rows["shared-2"]["flops_ratio"]
    assert rows["shared-2"]["bytes_ratio"] < 0.7
    assert rows["shared-2"]["new"][0] is not None
    assert rows["reconstruction-2"]["new"][0] is None  # it is not asked for tokens


def test_a_search_reads_validation_parts_alone(given):
    rows = given("--search", "--only", "lora", "shared-2")
    assert [row["lr"] for row in rows if row["way"] == "lora"] == list(ways.RATES)
    pairs = [(row["lr"], row["lower"]) for row in rows if row["way"] == "shared-2"]
    assert pairs == [(lr, lower) for lr in ways.RATES for lower in ways.LOWERS]
    assert all(row["part"] == "validation" for row in rows)


def test_tuning_begins_with_the_trained_weights_whatever_the_way(tmp_path):
    size = ways.SIZES["small"]
    torch.manual_seed(0)
    model = Decoder(size.vocabulary, size.length, width=size.width, layers=size.layers).eval()
    save_llama(model, tmp_path)
    x = torch.randint(0, size.vocabulary, (2, size.length))
    for name, way in ways.WAYS.items():
        network = way.build(tmp_path, size, 3.0, 0).eval()
        with torch.no_grad():
            torch.testing.assert_close(network(x), model(x), rtol=1e-4, atol=1e-5, msg=name)


def rows_of(way: str, new: float, old: float, kept: float = 0.5) -> dict:
    return {"way": way, "new": [new], "old": old, "bytes_ratio": kept}


def test_the_check_names_what_is_not_reached():
    base = rows_of("end-to-end", 100, 50, 1.0)
    assert command.shortfalls([base, rows_of("shared-2", 102.9, 49)]) == []
    assert command.shortfalls([base, rows_of("reconstruction-2", 99, 49)]) == []
    for short in (rows_of("shared-2", 103.1, 49), rows_of("shared-2", 100, 50), rows_of("shared-2", 100, 49, 0.61)):
        assert len(command.shortfalls([base, short])) == 1


def test_a_decoder_that_was_trained_by_blocks_is_tuned_with_its_readouts(given, monkeypatch):
    x, kept, trained = torch.randint(200, (2, 16)), [], []
    build, fit = ways.Way.build, command.fit

    def built(way, *args, **kwargs):
        network = build(way, *args, **kwargs)
        kept.append(network.eval().block_logits(x))
        return network.train()

    monkeypatch.setattr(ways.Way, "build", built)
    monkeypatch.setattr(command, "fit", lambda network, *rest: (trained.append(network), fit(network, *rest))[1])
    rows = given("--start", "shared-2", "--only", "shared-2")
    assert rows[0]["start"] == "shared-2"
    shared = kept[1]  # the first is end to end, beside which costs are measured
    for one, other in zip(trained[0].eval().block_logits(x), shared, strict=True):
        torch.testing.assert_close(one[..., :200], other[..., :200], rtol=1e-4, atol=1e-5)
