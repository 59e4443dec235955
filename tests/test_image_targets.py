"""Tables of images with binary labels or values: what is read, trained, evaluated and predicted."""

import csv
import json
from pathlib import Path

import pytest
import torch

from blocklocal import InputError
from blocklocal.cli.main import main
from blocklocal.data import Batches, load_images
from blocklocal.data.answers import UNKNOWN

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("pyarrow")
COUNT = 20


def write(folder: Path, suffix: str = ".csv", rows: int = COUNT, **columns: list) -> Path:
    """Picture i is grey of level 10·i; the columns beside its path."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(rows):
        Image.new("L", (8, 8), 10 * i).save(folder / f"{i}.png")
    cells = [{"path": f"{i}.png", **{name: column[i] for name, column in columns.items()}} for i in range(rows)]
    table = folder / f"photos{suffix}"
    if suffix == ".csv":
        with table.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(cells[0]))
            writer.writeheader()
            writer.writerows(cells)
    elif suffix == ".jsonl":
        table.write_text("".join(json.dumps(row) + "\n" for row in cells))
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(cells), table)
    return table


def prices(count: int = COUNT) -> list[float]:
    return [1.5 + i for i in range(count)]


def found_by_level(images, scale: float = 10) -> list[int]:
    """The number of every picture, by its grey level."""
    return [round(float(x.max()) / scale) for x in images.read()]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_column_of_fractions_is_values_that_stay_with_their_pictures(tmp_path: Path, suffix: str) -> None:
    data = load_images(str(write(tmp_path, suffix, price=prices())), label="price", cache=False)
    assert data.answers is not None
    assert (data.answers.kind, data.classes) == ("values", ("price",))
    for images in (data.train, data.validation, data.test):
        assert images.labels.flatten().tolist() == [1.5 + i for i in found_by_level(images)]
    assert len(data.test) == COUNT // 5
    assert data.answers.mean == pytest.approx((data.train.labels.mean().item(),))
    assert "target price: values" in data.account[0]


def test_several_columns_of_0_and_1_are_labels_and_an_empty_cell_is_not_known(tmp_path: Path) -> None:
    smiling, glasses = [i % 2 for i in range(COUNT)], [i % 3 // 2 if i else "" for i in range(COUNT)]
    table = write(tmp_path, smiling=smiling, glasses=glasses)
    data = load_images(str(table), label=["smiling", "glasses"], cache=False)
    assert data.answers is not None
    assert (data.answers.kind, data.classes) == ("labels", ("smiling", "glasses"))
    for images in (data.train, data.validation, data.test):
        expected = [[i % 2, i % 3 // 2 if i else UNKNOWN] for i in found_by_level(images)]
        assert images.labels.tolist() == expected


def test_whole_numbers_and_texts_are_classes_unless_values_are_asked_for(tmp_path: Path) -> None:
    table = write(tmp_path, age=[10 + i % 2 for i in range(COUNT)])
    assert load_images(str(table), label="age", cache=False).answers is None
    found = load_images(str(table), label="age", target_is="values", cache=False)
    assert set(found.train.labels.flatten().tolist()) == {10.0, 11.0}


def test_the_cache_gives_the_same_set_in_memory_and_on_disk(tmp_path: Path) -> None:
    table = write(tmp_path / "data", price=prices())
    plain = load_images(str(table), label="price", cache=False)
    for room in ("memory", "disk"):
        for _ in range(2):
            found = load_images(str(table), label="price", images_in=room, cache_dir=tmp_path / room)
            assert found.fingerprint() == plain.fingerprint()
            assert (found.answers, found.account[0]) == (plain.answers, plain.account[0])


def test_a_row_without_a_value_is_named(tmp_path: Path) -> None:
    table = write(tmp_path, price=["" if i == 4 else 1.5 + i for i in range(COUNT)])
    with pytest.raises(InputError, match=r"line 6: 4\.png has no label"):
        load_images(str(table), label="price", cache=False)


def test_a_text_among_numbers_and_one_value_alone_are_refused(tmp_path: Path) -> None:
    table = write(tmp_path / "a", price=["cheap" if i == 4 else 1.5 + i for i in range(COUNT)])
    with pytest.raises(InputError, match="price is 'cheap', and a number is expected"):
        load_images(str(table), label="price", target_is="values", cache=False)
    with pytest.raises(InputError, match="all training rows have the target"):
        load_images(str(write(tmp_path / "b", price=[1.5] * COUNT)), label="price", cache=False)
    with pytest.raises(InputError, match="binary labels, so 0 and 1"):
        load_images(str(write(tmp_path / "c", a=["x"] * COUNT, b=[1] * COUNT)), label=["a", "b"], cache=False)


def test_pictures_of_several_targets_are_not_mixed(tmp_path: Path) -> None:
    data = load_images(str(write(tmp_path, price=prices())), label="price", cache=False)
    with pytest.raises(InputError, match="leave mix out"):
        Batches(data.train, batch_size=4, mean=data.mean, std=data.std, mix="mixup", classes=1)


@pytest.mark.parametrize("kind", ["values", "labels"])
def test_a_run_trains_evaluates_and_predicts_them(tmp_path: Path, kind: str, capsys, monkeypatch) -> None:
    monkeypatch.setenv("BLOCKLOCAL_CACHE", str(tmp_path / "cache"))
    columns = {"price": prices()} if kind == "values" else {"a": [i % 2 for i in range(COUNT)], "b": [0, 1, 1, 0] * 5}
    table, run = write(tmp_path / "data", **columns), tmp_path / "run"
    model = ["--model", "mlp", "--width", "8", "--blocks", "2", "--epochs", "1", "--batch-size", "8"]
    code = main(["train", "--data", str(table), "--target", *columns, *model, "--output", str(run), "--device", "cpu"])
    assert code == 0, capsys.readouterr()
    summary = json.loads((run / "summary.json").read_text())
    name = "test_rmse" if kind == "values" else "test_top1"
    assert summary[name] >= 0
    assert (run / "report.html").exists()
    assert main(["evaluate", str(run)]) == 0
    found = tmp_path / "found.csv"
    assert main(["predict", str(run), str(table.parent / "0.png"), "--output", str(found)]) == 0
    (row,) = csv.DictReader(found.read_text().splitlines())
    assert all(torch.isfinite(torch.tensor(float(row[column]))) for column in columns)
