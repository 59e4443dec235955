"""experiments/networks: its parts share nothing, its table has a row per rule, and its check says what is short."""

import json
import sys
from pathlib import Path

import pytest
import torch
from data_files import labels, picture, png, write_parquet

from experiments.networks import command
from experiments.networks.cases import CASES, RULES
from experiments.networks.data import PACKAGES, Size, sources

pytest.importorskip("transformers", reason="transformers is not installed")
TINY = Size(40, 20, 30, 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sets")
    for name, side, mode in (("fashion_mnist", 28, "L"), ("cifar10", 32, "RGB")):
        for part, count in (("train", 150), ("test", 120)):
            pictures = [png(picture(i, (side, side)).convert(mode)) for i in range(count)]
            write_parquet(root / name / f"{part}-00000-of-00001.parquet", pictures, labels(count))
    return root


def rows_of(network: str, rule: str, *values: float) -> list[dict]:
    return [{"network": network, "rule": rule, "test": value} for value in values]


def test_no_piece_of_source_is_in_two_parts() -> None:
    parts = sources(None, Size(10_000, 10_000, 10_000, 1), 32, 0)
    found = {part: {tuple(row.tolist()) for row in getattr(parts, part).x["input_ids"]} for part in ("train", "test")}
    shared = found["train"] & found["test"]
    assert len(shared) < 0.01 * len(found["test"])  # files that say the same words
    assert set(parts.train.y.tolist()) == set(parts.test.y.tolist()) == set(range(len(PACKAGES)))


def test_the_mask_of_a_piece_is_where_it_has_words() -> None:
    x = sources(None, TINY, 32, 0).train.x
    assert torch.equal(x["attention_mask"] > 0, x["input_ids"] > 0)


def test_training_batches_come_in_another_order_each_epoch_and_the_same_for_a_seed() -> None:
    once, again = (sources(None, TINY, 40, 3).train for _ in range(2))
    first, second = next(iter(once))[1], next(iter(once))[1]
    assert torch.equal(first, next(iter(again))[1])
    assert torch.equal(first.sort().values, second.sort().values)
    assert not torch.equal(first, second)


def test_a_unet_gives_a_class_per_pixel() -> None:
    assert CASES["unet"].model()(torch.zeros(2, 1, 28, 28)).shape == (2, 11, 28, 28)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_the_small_size_leaves_a_row_per_rule(
    name: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "rows.json"
    file.write_text(json.dumps([{"size": "small", "network": "another", "rule": "frozen", "test": 1.0}]))
    flags = ["--only", name, "--size", "small", "--rounds", "1", "--steps", "1", "--json", str(file)]
    monkeypatch.setattr(sys, "argv", ["networks", "--data-folder", str(folder), *flags])
    assert command.main() == 0
    other, *rows = json.loads(file.read_text())
    assert other["network"] == "another"
    assert [row["rule"] for row in rows] == list(RULES)
    assert [row["blocks"] for row in rows] == [1, 4, 4]
    assert all(0 <= row["test"] <= 100 for row in rows)
    assert rows[2]["bytes_ratio"] < 1


def test_the_check_names_what_is_below_the_control_or_far_below_backprop() -> None:
    good = rows_of("a", "backprop", 90, 92) + rows_of("a", "frozen", 80, 80) + rows_of("a", "block-local", 89, 91)
    below = rows_of("b", "backprop", 50) + rows_of("b", "frozen", 49) + rows_of("b", "block-local", 49)
    far = rows_of("c", "backprop", 90) + rows_of("c", "frozen", 70) + rows_of("c", "block-local", 87.9)
    lines = command.shortfalls([*good, *below, *far])
    assert [line.partition(":")[0] for line in lines] == ["b", "c"]
    assert "not above the control" in lines[0]
    assert "more than 2 points below" in lines[1]
