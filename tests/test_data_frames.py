"""Tables of numbers: what a column is, what it becomes, and what is refused."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from blocklocal import build_model
from blocklocal._common.errors import InputError
from blocklocal.block.values import Values
from blocklocal.cli import main
from blocklocal.data.features import ABSENT, UNSEEN
from blocklocal.data.frame import read_frame
from blocklocal.data.samples import SampleBatches
from blocklocal.data.table_set import load_table
from blocklocal.network.prediction import Prediction
from blocklocal.runs.asking import Asking
from blocklocal.runs.facts import DatasetInfo
from blocklocal.runs.said import Said, describe_prediction
from blocklocal.schemas import read_json

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def write(path: Path, header: str, rows: list[str]) -> Path:
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def animals(path: Path, rows: int = 40) -> Path:
    """age is i, with every tenth missing; colour is a text; always is constant; name is another one in every row."""
    lines = [
        f"{'' if i % 10 == 0 else i},{('red', 'blue', 'green')[i % 3]},7,animal number {i},{('cat', 'dog')[i % 2]}"
        for i in range(rows)
    ]
    return write(path, "age,colour,always,name,kind", lines)


def test_columns_are_found_out_and_said(tmp_path):
    data = load_table(animals(tmp_path / "animals.csv"), "kind")
    assert data.classes == ("cat", "dog")
    assert [column.name for column in data.features.numbers] == ["age"]
    assert [column.name for column in data.features.categories] == ["colour"]
    said = "\n".join(data.account)
    assert "train: 29 rows from animals.csv" in said
    assert "target kind: 2 classes (cat, dog), texts" in said
    assert "missing values: their mean, and a number that says so (age)" in said
    assert "left out: columns with one value in all training rows (always)" in said
    assert "left out: columns with almost as many texts as rows, as names have them (name)" in said


def test_numbers_are_standardised_by_the_training_part_alone(tmp_path):
    data = load_table(animals(tmp_path / "animals.csv", 400), "kind")
    number, missing = data.train.x[:, 0], data.train.x[:, 1]
    assert number.mean().item() == pytest.approx(0, abs=1e-5)
    known = number[missing == 0]
    assert known.std(correction=0).item() == pytest.approx(1, abs=1e-5)
    assert number[missing == 1].unique().tolist() == [0.0]
    assert abs(data.test.x[:, 0].mean().item()) > 1e-4


def test_a_category_that_training_did_not_have_has_a_code_of_its_own(tmp_path):
    train = write(tmp_path / "train.csv", "a,colour,y", [f"{i},{('red', 'blue')[i % 2]},{i % 2}" for i in range(30)])
    write(tmp_path / "test.csv", "y,colour,a", ["0,violet,1", "1,,2", "0,blue,3"])
    data = load_table(tmp_path, "y", validation=0)
    codes = data.test.x[:, -1].tolist()
    assert codes[:2] == [UNSEEN, ABSENT]
    assert codes[2] == data.train.x[1, -1] or codes[2] in data.train.x[:, -1].tolist()
    assert data.features.sizes == (4,)
    assert train.exists()


@pytest.mark.parametrize(
    ("values", "kind", "names"),
    [
        (["yes", "no"], "classes", ("no", "yes")),
        (["true", "false"], "classes", ("False", "True")),
        (["2", "10"], "classes", ("2", "10")),
        (["0.5", "1.25"], "values", ("y",)),
        (["1.0", "2.0"], "classes", ("1", "2")),
        ([str(i) for i in range(30)], "values", ("y",)),
    ],
)
def test_whether_a_target_is_classes_or_values_is_found_out(tmp_path, values, kind, names):
    table = write(tmp_path / "t.csv", "a,y", [f"{i / 7},{values[i % len(values)]}" for i in range(60)])
    data = load_table(table, "y")
    assert data.answers.kind == kind
    assert data.classes == names


def test_it_can_be_said_too_and_values_carry_mean_and_deviation(tmp_path):
    table = write(tmp_path / "t.csv", "a,y,z", [f"{i / 7},{i % 2},{i}" for i in range(60)])
    data = load_table(table, "y", target_is="values", validation=0)
    assert data.train.labels.dtype == torch.float32
    assert data.answers.mean == pytest.approx((data.train.labels.double().mean().item(),))
    assert data.answers.std == pytest.approx((data.train.labels.double().std(correction=0).item(),))
    assert load_table(table, ["y", "z"]).train.labels.shape[1] == 2


def test_the_same_table_as_csv_with_any_separator_and_as_parquet_is_the_same_set(tmp_path):
    rows = [[i / 4, i % 3, ("a", "b")[i % 2]] for i in range(40)]
    sets = []
    for separator in (",", ";", "\t", "|"):
        lines = [separator.join(map(str, row)) for row in rows]
        sets.append(load_table(write(tmp_path / "t.csv", separator.join("xky"), lines), "y"))
    comma = [";".join(str(cell).replace(".", ",") for cell in row) for row in rows]
    sets.append(load_table(write(tmp_path / "t.csv", "x;k;y", comma), "y"))
    columns = list(zip(*rows, strict=True))
    pq.write_table(pa.table({"x": columns[0], "k": columns[1], "y": columns[2]}), tmp_path / "t.parquet")
    sets.append(load_table(tmp_path / "t.parquet", "y"))
    assert all(each.fingerprint() == sets[0].fingerprint() for each in sets)


def test_rows_without_a_target_are_left_out_and_said(tmp_path):
    table = write(tmp_path / "t.csv", "a,y", [f"{i},{'' if i < 3 else i % 2}" for i in range(40)])
    data = load_table(table, "y", validation=0)
    assert len(data.train) + len(data.test) == 37
    assert "left out: 3 rows of t.csv without a target" in data.account


LINES = [f"{i},{i % 2}" for i in range(30)]


@pytest.mark.parametrize(
    ("content", "target", "message"),
    [
        ("age,y\n" + "\n".join(LINES), "yy", r"unknown column 'yy'\. Did you mean 'y'"),
        ("age,y\n" + "\n".join(LINES), "age, y", r"no column 'age, y': give the columns one by one, age y\."),
        ("", "y", "is empty"),
        ("age,y\n", "y", "and no rows"),
        ("age y\n1 2\n", "y", "single column, 'age y'"),
        ("1,2\n3,4\n", "y", "begins with numbers"),
        ("a,a\n1,2\n", "a", "two columns called 'a'"),
        ("a,y\n1,2\n1,2,3\n", "y", "cannot read .* as a table.*Expected 2 columns, got 3"),
        ("a,y\n" + "\n".join(f"{i},1" for i in range(30)), "y", "is '1' in every row"),
        ("a,y\n" + "\n".join(f"{i},1.5" for i in range(30)), "y", "all training rows have the target"),
        ("a,y\n" + "\n".join(f"{i}," for i in range(30)), "y", "has no value in any row"),
        ("a,y\n" + "\n".join(f"{i},t{i}" for i in range(30)), "y", "30 different texts in 30 rows"),
        ("a,y\n" + "\n".join(["many,1", *LINES]), "y", r"row 1: a is 'many', and most of its column are numbers"),
        ("a,y\n" + "\n".join(["inf,1", *LINES]), "y", "row 1: a is infinite"),
        ("a,y\n" + "\n".join(f"5,{i % 2}" for i in range(30)), "y", "no column to learn from.*one value"),
        ("a,y\n1,0\n", "y", "is '0' in every row"),
    ],
)
def test_tables_that_cannot_be_used_are_refused_with_the_place(tmp_path, content, target, message):
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(InputError, match=message):
        load_table(tmp_path / "t.csv", target)


def test_text_that_is_no_utf_8_is_named_with_its_line(tmp_path):
    (tmp_path / "t.csv").write_bytes("a,y\n1,x\n2,caf\xe9\n".encode("latin-1"))
    with pytest.raises(InputError, match="line 3: this is no UTF-8"):
        read_frame(tmp_path / "t.csv")


def test_what_is_no_table_is_refused(tmp_path):
    (tmp_path / "t.xlsx").write_bytes(b"PK")
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    for name, message in (("t.xlsx", "is no table"), ("t.parquet", "as parquet"), ("none.csv", "No such file")):
        with pytest.raises(InputError, match=message):
            read_frame(tmp_path / name)
    (tmp_path / "more.csv").write_text("a,y\n1,2\n")
    with pytest.raises(InputError, match=r"train\.csv and test\.csv"):
        load_table(tmp_path, "y")


def test_a_class_that_only_the_test_part_has_is_named(tmp_path):
    write(tmp_path / "train.csv", "a,y", LINES)
    write(tmp_path / "test.csv", "a,y", ["1,0", "2,5"])
    with pytest.raises(InputError, match=r"test\.csv, row 2: the target y is '5', which no training row has"):
        load_table(tmp_path, "y")


def test_a_column_that_became_text_is_named_when_rows_are_encoded_later(tmp_path):
    data = load_table(write(tmp_path / "t.csv", "a,y", LINES), "y")
    later = write(tmp_path / "later.csv", "a,b", ["1,2", "none of them,3"])
    with pytest.raises(InputError, match="row 2: a is 'none of them', and a number is expected"):
        data.features.encode(read_frame(later))
    with pytest.raises(InputError, match=r"later\.csv lacks the column 'a', from which .* It has c, b\."):
        data.features.encode(read_frame(write(tmp_path / "later.csv", "c,b", ["1,2"])))


def test_a_run_keeps_what_columns_become(tmp_path):
    facts = DatasetInfo.of(load_table(animals(tmp_path / "animals.csv"), "kind"))
    (tmp_path / "data.json").write_text(json.dumps(facts.flat()))
    assert read_json(tmp_path / "data.json", DatasetInfo, what="facts") == facts


def test_batches_hold_every_row_once_in_an_order_of_seed_and_epoch(tmp_path):
    data = load_table(write(tmp_path / "t.csv", "a,y", LINES), "y", validation=0)
    batches = SampleBatches(data.train, batch_size=5, shuffle=True, seed=1)
    whole = [torch.cat(list(part)) for part in zip(*batches.epoch(0), strict=True)]
    assert sorted(whole[0].flatten().tolist()) == sorted(data.train.x.flatten().tolist())
    later = list(batches.epoch(0, 2))
    assert torch.equal(torch.cat([x for x, _ in later]), whole[0][10:])
    assert not torch.equal(next(batches.epoch(1))[0], whole[0][:5])


def test_an_mlp_embeds_the_codes_and_gives_nothing_for_an_unseen_one():
    torch.manual_seed(0)
    model = build_model("mlp", classes=2, input_shape=(4,), width=8, categories=(3, 5)).eval()
    x = torch.tensor([[0.5, -1.0, 2.0, 4.0], [0.5, -1.0, 0.0, 0.0]])
    first = model.hidden1.embed(x)
    assert first.shape == (2, 2 + 2 + 3)
    assert first[1].tolist() == [0.5, -1.0, 0, 0, 0, 0, 0]
    assert first[0, 2:4].tolist() == model.hidden1.embed.tables[0].weight[2].tolist()
    assert model(x).shape == (2, 2)


def test_a_model_of_images_refuses_a_table():
    with pytest.raises(InputError, match=r"resnet18 reads images \[C, H, W\], not samples of the shape \[30\]"):
        build_model("resnet18", classes=2, input_shape=(30,))


def test_dates_and_truth_values_are_numbers(tmp_path):
    table = write(
        tmp_path / "t.csv",
        "day,flag,y",
        [f"2026-01-{i + 1:02},{('true', 'false')[i % 3 > 0]},{i % 2}" for i in range(30)],
    )
    data = load_table(table, "y", validation=0)
    assert [column.name for column in data.features.numbers] == ["day", "flag"]
    assert data.features.numbers[0].std == pytest.approx(np.std(np.arange(30)), rel=0.2)


def test_values_are_told_by_name_where_classes_have_a_label(tmp_path):
    table = write(tmp_path / "t.csv", "a,price,size", [f"{i / 7},{i / 3},{i / 2}" for i in range(60)])
    facts = DatasetInfo.of(load_table(table, ["price", "size"]))
    said = Prediction(torch.tensor([[1.5, 2.0]]), Values(2), blocks=(None,))
    assert describe_prediction(said, 0, facts) == "price 1.5  size 2"
    each = Said("row", 1, said, 0, facts, ["the only block"], Asking())
    assert each.row() == {"row": 1, "price": 1.5, "size": 2.0}
    assert each.entry() == {"row": 1, "price": 1.5, "size": 2.0, "others": {}}


def test_values_train_are_measured_and_predicted_in_their_own_units(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "t.csv", "a,y", [f"{i / 7},{1000 + i}" for i in range(80)])
    size = ["--epochs", "3", "--blocks", "2", "--width", "8", "--batch-size", "16", "--no-tensorboard"]
    assert main(["train", "--data", "t.csv", "--target", "y", *size, "--output", "run"]) == 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["test_rmse"] < 100
    assert main(["evaluate", "run"]) == 0
    capsys.readouterr()
    assert main(["predict", "run", "t.csv"]) == 0
    header, first = capsys.readouterr().out.splitlines()[:2]
    assert header.split(",")[:2] == ["row", "y"]
    assert 900 < float(first.split(",")[1]) < 1200


def test_several_columns_of_0_and_1_are_binary_labels_and_train_as_such(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = [f"{i},{int(i % 2 == 0)},{'' if i == 3 else ('true', 'false')[i % 3 > 0]}" for i in range(60)]
    write(tmp_path / "t.csv", "a,even,third", rows)
    data = load_table("t.csv", ["even", "third"], validation=0)
    assert data.answers.kind == "labels"
    assert sorted(data.train.labels.unique().tolist() + data.test.labels.unique().tolist())[0] == -100
    size = ["--epochs", "1", "--blocks", "2", "--width", "4", "--batch-size", "16", "--no-tensorboard"]
    assert main(["train", "--data", "t.csv", "--target", "even", "third", *size, "--output", "run"]) == 0
    capsys.readouterr()
    assert main(["predict", "run", "t.csv"]) == 0
    assert "even" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "confusion.json").read_text())["of"] == "labels"


def test_a_table_is_measured_and_resumed_and_other_rows_are_read_as_it_was(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    animals(tmp_path / "animals.csv", 60)
    size = ["--epochs", "1", "--blocks", "2", "--width", "4", "--batch-size", "16", "--no-tensorboard"]
    assert main(["train", "--data", "animals.csv", "--target", "kind", *size, "--output", "run"]) == 0
    assert main(["train", "--resume", "run", "--epochs", "2"]) == 0
    write(tmp_path / "other.csv", "colour,age,kind", ["violet,3,cat", ",,dog", "red,9,cat"])
    capsys.readouterr()
    assert main(["evaluate", "run", "--data", "other.csv"]) == 0
    assert "other.csv: top-1" in capsys.readouterr().out
    assert main(["evaluate", "run"]) == 0
    assert "test: top-1" in capsys.readouterr().out


@pytest.mark.slow
def test_a_table_trains_over_processes_bit_for_bit_as_in_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    animals(tmp_path / "animals.csv", 60)
    size = ["--epochs", "1", "--blocks", "2", "--width", "4", "--batch-size", "16", "--no-tensorboard"]
    for output, more in (("one", []), ("two", ["--processes", "2"])):
        command = ["train", "--data", "animals.csv", "--target", "kind", *size, "--output", output, *more]
        whole = [sys.executable, "-m", "blocklocal", *command]
        done = subprocess.run(whole, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    a, b = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("one", "two"))
    assert a["test_nll"] == b["test_nll"]


def test_a_run_on_a_table_is_diagnosed_and_one_of_values_is_refused(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    rows = "".join(f"{i},{i * i % 17},{'big' if i > 20 else 'small'},{i + 0.5}\n" for i in range(40))
    Path("t.csv").write_text(f"a,b,size,price\n{rows}")
    for target in ("size", "price"):
        small = ["--width", "4", "--blocks", "2", "--epochs", "1", "--batch-size", "8", "--device", "cpu"]
        assert main(["train", "--data", "t.csv", "--target", target, *small, "--output", target]) == 0
    assert main(["diagnose", "size"]) == 0
    found = json.loads(Path("size/diagnosis.json").read_text())
    assert all(0 <= block["probe"] <= 100 for block in found["blocks"])
    capsys.readouterr()
    assert main(["diagnose", "price"]) != 0
    assert "is asked for values" in capsys.readouterr().err


def test_a_column_of_weights_says_how_much_every_row_counts_and_is_no_feature(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = [f"{i / 7},{('a', 'b')[i % 2]},{i % 3}" for i in range(60)]
    write(tmp_path / "t.csv", "x,kind,often", rows)
    data = load_table("t.csv", "kind", weight="often", validation=0)
    assert [column.name for column in data.features.numbers] == ["x"]
    x, y, weights = next(iter(SampleBatches(data.train, batch_size=48)))
    place = (x[:, 0] * data.features.numbers[0].std + data.features.numbers[0].mean) * 7
    assert torch.equal(weights, place.round() % 3)
    assert len(y) == len(weights)
    size = ["--epochs", "1", "--blocks", "2", "--width", "4", "--batch-size", "16", "--no-tensorboard"]
    command = ["train", "--data", "t.csv", "--target", "kind", "--weight", "often", *size, "--output", "run"]
    assert main(command) == 0
    assert main(["evaluate", "run"]) == 0
    write(tmp_path / "t.csv", "x,kind,often", [*rows[:-1], "1,a,-1"])
    with pytest.raises(InputError, match="the weights in often must be numbers of 0 or more in every row"):
        load_table("t.csv", "kind", weight="often")
    capsys.readouterr()
    assert main(["train", "--data", "digits", "--weight", "often"]) == 2
    assert "--weight names a column of a table of rows, and digits is none" in capsys.readouterr().err


def test_weights_stay_with_their_rows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "t.csv", "x,kind,often", [f"{i},{('a', 'b')[i % 2]},{1 + (i < 5)}" for i in range(30)])
    data = load_table("t.csv", "kind", weight="often", validation=0)
    assert set(data.train.weights.tolist()) == {1.0, 2.0}
    assert data.train.subset(slice(0, 3)).weights.tolist() == data.train.weights[:3].tolist()


def test_shares_of_classes_are_soft_targets(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = [f"{i / 7},{(i % 5) / 4},{1 - (i % 5) / 4}" for i in range(60)]
    write(tmp_path / "t.csv", "x,cat,dog", rows)
    data = load_table("t.csv", ["cat", "dog"], target_is="shares", validation=0)
    assert (data.answers.kind, data.classes) == ("shares", ("cat", "dog"))
    assert torch.allclose(data.train.labels.sum(1), torch.ones(len(data.train)))
    size = ["--epochs", "1", "--blocks", "2", "--width", "4", "--batch-size", "16", "--no-tensorboard"]
    command = ["train", "--data", "t.csv", "--target", "cat", "dog", "--target-is", "shares", *size, "--output", "run"]
    assert main(command) == 0
    assert "test accuracy" in capsys.readouterr().out
    assert main(["predict", "run", "t.csv"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split(",")[1] in ("cat", "dog")
    assert main(["evaluate", "run"]) == 0
    write(tmp_path / "t.csv", "x,cat,dog", [*rows, "1,0.5,0.6"])
    with pytest.raises(InputError, match=r"the shares cat, dog must be 0 or more, with a sum of 1"):
        load_table("t.csv", ["cat", "dog"], target_is="shares")
    with pytest.raises(InputError, match="one for each class, and cat is none"):
        load_table("t.csv", "cat", target_is="shares")
