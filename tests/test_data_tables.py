"""Oracle: the labels that a table gives. Images without class folders are read with their table, or refused."""

from __future__ import annotations

import json
import shutil

import pytest
from data_files import all_train, class_folders, first_pixels, picture

from blocklocal._common.errors import InputError
from blocklocal.data import load_images

LABELS = [*["cat", "dog"] * 5]  # of image i


pytestmark = pytest.mark.usefixtures("empty_cache")


def pictures(folder, count: int = 10, start: int = 0) -> None:
    """Files 0.png … whose first pixels count from `start`."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        picture(start + i).save(folder / f"{i}.png")


def table(path, names=LABELS, head="file_name,label", form="{i}.png,{name}", start="") -> None:
    rows = [form.format(i=i, name=name) for i, name in enumerate(names)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(start + "\n".join([head, *rows]) + "\n")


def named(images, classes) -> dict[int, str]:
    return dict(zip(first_pixels(images), [classes[label] for label in images.labels.tolist()], strict=True))


def assert_alternating(data) -> None:
    assert data.classes == ("cat", "dog")
    for images in (data.train, data.test):
        assert named(images, data.classes) == {i: LABELS[i % 10] for i in first_pixels(images)}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("labels.csv", {}),
        ("labels.csv", {"start": "\ufeff"}),
        ("Labels.CSV", {"head": "Label;IMAGE", "form": "{name};{i}.png"}),
        ("metadata.csv", {"head": "id,filename,class,size", "form": "x{i},images/{i}.png,{name},3"}),
        ("labels.csv", {"head": "path\tcategory", "form": "{i}.png\t{name}"}),
        ("labels.csv", {"form": '"{i}.png","{name}"'}),
    ],
    ids=["plain", "byte order mark", "semicolons, other case", "more columns", "tabs", "quotes"],
)
def test_images_beside_a_table_are_read_with_its_labels(tmp_path, name, options):
    pictures(tmp_path / "set" / "images")
    table(tmp_path / "set" / name, **options)
    data = all_train(tmp_path / "set")
    assert_alternating(data)
    assert (len(data.train), len(data.test)) == (8, 2)
    assert f"labels from {name}" in data.account[0]


def test_a_table_directly_beside_its_images_is_read(tmp_path):
    pictures(tmp_path / "set")
    table(tmp_path / "set" / "labels.csv")
    assert_alternating(all_train(tmp_path / "set"))


def test_json_lines_are_read_as_the_hub_writes_them(tmp_path):
    for split, start in (("train", 0), ("test", 100)):
        pictures(tmp_path / "set" / split, start=start)
        rows = [json.dumps({"file_name": f"{i}.png", "label": i % 2, "boxes": [1]}) for i in range(10)]
        (tmp_path / "set" / split / "metadata.jsonl").write_text("\n".join(rows))
    data = all_train(tmp_path / "set")
    assert data.classes == ("0", "1")
    assert all(label == first % 2 for first, label in zip(first_pixels(data.test), data.test.labels, strict=True))


def test_one_table_per_split_is_read(tmp_path):
    pictures(tmp_path / "set" / "images")
    table(tmp_path / "set" / "train.csv", LABELS[:6])
    table(tmp_path / "set" / "test_labels.csv", LABELS[6:8], form="{i}.png,{name}")
    data = all_train(tmp_path / "set")
    assert (len(data.train), len(data.test)) == (6, 2)


def test_one_table_per_split_beside_folders_of_the_splits_is_read(tmp_path):
    for split, start in (("train", 0), ("test", 100)):
        pictures(tmp_path / "set" / split, start=start)
        table(tmp_path / "set" / f"{split}.csv")
    data = all_train(tmp_path / "set")
    assert_alternating(data)
    assert min(first_pixels(data.test)) == 100


def test_one_table_whose_paths_lead_into_the_splits_is_read(tmp_path):
    for split, start in (("train", 0), ("test", 100)):
        pictures(tmp_path / "set" / split, start=start)
    rows = [f"{split}/{i}.png,{LABELS[i]}" for split in ("train", "test") for i in range(10)]
    (tmp_path / "set" / "metadata.csv").write_text("\n".join(["file_name,label", *rows]))
    data = all_train(tmp_path / "set")
    assert_alternating(data)
    assert (len(data.train), min(first_pixels(data.test))) == (10, 100)


def test_a_column_of_splits_is_followed(tmp_path):
    pictures(tmp_path / "set" / "images")
    rows = [f"{i}.png,{LABELS[i]},{'Train' if i < 6 else 'test'}" for i in range(10)]
    (tmp_path / "set" / "labels.csv").write_text("\n".join(["file,label,split", *rows]))
    data = all_train(tmp_path / "set")
    assert sorted(first_pixels(data.train)) == list(range(6))
    assert sorted(first_pixels(data.test)) == list(range(6, 10))


def test_numbers_are_classes_in_order_of_their_value(tmp_path):
    pictures(tmp_path / "set" / "images")
    table(tmp_path / "set" / "labels.csv", ["10", "9"] * 5)
    assert all_train(tmp_path / "set").classes == ("9", "10")


def test_minus_one_and_one_alone_are_two_classes(tmp_path):
    pictures(tmp_path / "set" / "images")
    table(tmp_path / "set" / "labels.csv", ["1", "-1"] * 5)
    assert all_train(tmp_path / "set").classes == ("-1", "1")


def test_images_that_a_table_does_not_name_are_left_out_and_said(tmp_path):
    pictures(tmp_path / "set" / "images", count=12)
    table(tmp_path / "set" / "labels.csv")
    data = all_train(tmp_path / "set")
    assert len(data.train) + len(data.test) == 10
    assert "left out: 2 images that the table does not name" in data.account[0]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["a.png,cat"], r"line 2: there is no file 'a.png' in .*set, .*images\. Correct"),
        (["0,cat"], r"line 2: there is no file '0' .*need their suffix"),
        (["0.png,cat", "1.png,"], r"line 3: 1.png has no label"),
        (["0.png,cat", "1.png,-1"], r"line 3: 1.png has no label"),
        (["0.png,cat", "0.png,dog"], r"line 3: 0.png is named a second time"),
        (["0.png,cat", ",dog"], r"line 3: the file name is empty"),
        (["0.png"], r"holds one class, 'images'.*labels.csv"),
    ],
)
def test_rows_that_cannot_be_right_are_named_by_line(tmp_path, rows, message):
    pictures(tmp_path / "set" / "images")
    (tmp_path / "set" / "labels.csv").write_text("\n".join(["file,label", *rows]))
    with pytest.raises(InputError, match=message):
        load_images(str(tmp_path / "set"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"file_name": "0.png", "label": ["cat"]}', "label is .*Expected one name"),
        ('{"file_name": "0.png"', "line 1: this is no JSON"),
        ('["0.png", "cat"]', "line 1: expected an object like"),
    ],
)
def test_json_lines_that_cannot_be_right_are_named(tmp_path, text, message):
    pictures(tmp_path / "set" / "images")
    (tmp_path / "set" / "metadata.jsonl").write_text(text)
    with pytest.raises(InputError, match=message):
        load_images(str(tmp_path / "set"))


def test_images_without_a_table_are_refused_with_the_layouts(tmp_path):
    pictures(tmp_path / "set" / "images")
    with pytest.raises(InputError, match=r"'images'.*Expected two or more class folders, or a labels\.csv"):
        load_images(str(tmp_path / "set"))
    (tmp_path / "set" / "labels").mkdir()
    pictures(tmp_path / "set" / "labels")
    with pytest.raises(InputError, match=r"no class folders, only images, labels"):
        load_images(str(tmp_path / "set"))
    shutil.rmtree(tmp_path / "set")
    pictures(tmp_path / "set")
    with pytest.raises(InputError, match=r"10 images outside any class folder.*labels\.csv"):
        load_images(str(tmp_path / "set"))


def test_a_table_with_other_columns_is_named_with_those_it_has(tmp_path):
    pictures(tmp_path / "set" / "images")
    table(tmp_path / "set" / "labels.csv", head="file,caption")
    with pytest.raises(InputError, match=r"labels.csv has the columns file, caption: none of them is called label"):
        load_images(str(tmp_path / "set"))


def test_class_folders_stay_the_classes_beside_a_table_that_says_the_same(tmp_path):
    root = class_folders(tmp_path / "set", ("cat", "dog"))
    rows = [f"{name}/{i}.png,{name}" for name in ("cat", "dog") for i in range(3)]
    (root / "labels.csv").write_text("\n".join(["file,label", *rows]))
    data = all_train(root)
    assert len(data.train) + len(data.test) == 8


def test_class_folders_and_a_table_that_disagree_are_refused(tmp_path):
    root = class_folders(tmp_path / "set", ("part_1", "part_2"))
    rows = [f"part_{k}/{i}.png,{['cat', 'dog'][i % 2]}" for k in (1, 2) for i in range(4)]
    (root / "labels.csv").write_text("\n".join(["file,label", *rows]))
    with pytest.raises(InputError, match=r"calls .*part_1/0.png 'cat', but .* holds the folders part_1, part_2"):
        load_images(str(root))


def test_a_table_without_labels_beside_class_folders_is_left_out_and_said(tmp_path):
    root = class_folders(tmp_path / "set", ("cat", "dog"))
    (root / "labels.csv").write_text("id,name\n0,cat\n1,dog\n")
    assert "left out: 1 table that gives no labels (labels.csv)" in all_train(root).account[0]


def test_a_changed_table_is_read_again(tmp_path):
    pictures(tmp_path / "set" / "images")
    table(tmp_path / "set" / "labels.csv")
    load_images(str(tmp_path / "set"))
    table(tmp_path / "set" / "labels.csv", ["hen", "owl"] * 5)
    assert load_images(str(tmp_path / "set")).classes == ("hen", "owl")


# --- what lies beside the files that a table names ----------------------------------------------------------------


def a_common_table(root) -> None:
    pictures(root / "images")
    table(root / "labels.csv")


def a_split_column(root) -> None:
    pictures(root / "images")
    rows = [f"{i}.png,{name},{'train' if i < 6 else 'test'}" for i, name in enumerate(LABELS)]
    (root / "labels.csv").write_text("\n".join(["file,label,split", *rows]))


def a_table_per_split(root) -> None:
    pictures(root / "images")
    table(root / "train.csv", LABELS[:6])
    (root / "test.csv").write_text("file,label\n6.png,cat\n7.png,dog\n")


def a_table_beside_each_split(root) -> None:
    for split in ("train", "test"):
        pictures(root / split)
        table(root / f"{split}.csv")


def a_table_in_each_split(root) -> None:
    for split in ("train", "test"):
        pictures(root / split)
        table(root / split / "labels.csv")


def a_common_table_of_splits(root) -> None:
    for split in ("train", "test"):
        pictures(root / split)
    rows = [f"{split}/{i}.png,{name}" for split in ("train", "test") for i, name in enumerate(LABELS)]
    (root / "labels.csv").write_text("\n".join(["file,label", *rows]))


@pytest.mark.parametrize("make", [a_common_table, a_split_column, a_table_per_split])
def test_hidden_folders_beside_a_table_are_said_once(tmp_path, make):
    make(tmp_path / "set")
    (tmp_path / "set" / ".thumbnails").mkdir()
    account = all_train(tmp_path / "set").account
    assert " ".join(account).count("1 hidden folder (.thumbnails)") == 1
    assert "(.thumbnails)" in account[0]


@pytest.mark.parametrize("make", [a_table_beside_each_split, a_table_in_each_split, a_common_table_of_splits])
def test_folders_beside_splits_with_tables_are_said_once(tmp_path, make):
    make(tmp_path / "set")
    for name in (".thumbnails", "spare"):
        (tmp_path / "set" / name).mkdir()
    account = all_train(tmp_path / "set").account
    assert "1 hidden folder (.thumbnails), 1 folder beside the splits (spare)" in account[0]
    assert "left out" not in account[2]


def test_hidden_folders_in_a_split_with_a_table_are_said_of_that_split(tmp_path):
    a_table_in_each_split(tmp_path / "set")
    (tmp_path / "set" / "test" / ".thumbnails").mkdir()
    account = all_train(tmp_path / "set").account
    assert "1 hidden folder (.thumbnails)" in account[2]
    assert "left out" not in account[0]


def test_a_folder_beside_the_splits_whose_images_a_table_names_is_not_left_out(tmp_path):
    pictures(tmp_path / "set" / "images")
    table(tmp_path / "set" / "train.csv")
    pictures(tmp_path / "set" / "test")
    table(tmp_path / "set" / "test" / "labels.csv")
    assert "left out" not in " ".join(all_train(tmp_path / "set").account)


def test_a_split_column_with_an_empty_cell_among_splits_is_refused_with_its_line(tmp_path):
    (tmp_path / "images").mkdir()
    rows = ["file,label,split"]
    for i in range(12):
        picture(i).save(tmp_path / "images" / f"{i}.png")
        rows.append(f"{i}.png,{'ab'[i % 2]},{['train', 'test', ''][i // 2 % 3]}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    with pytest.raises(InputError, match=r"labels.csv, line 6: split is '', which is no split"):
        load_images(str(tmp_path), cache=False)


# --- a table given by its own path -----------------------------------------------------------------------------------


def listed(root, suffix: str, column: str = "label"):
    """12 pictures in a folder and a table of their paths; the first pixel of image i is i."""
    (root / "deep" / "er").mkdir(parents=True)
    rows = [{"path": f"deep/er/{i}.png", column: ("cat", "dog")[i % 2], "more": i / 3} for i in range(12)]
    for i, row in enumerate(rows):
        picture(i).save(root / row["path"])
    table = root / f"which.{suffix}"
    if suffix == "parquet":
        pa = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(pa.Table.from_pylist(rows), table)
    elif suffix == "jsonl":
        table.write_text("\n".join(json.dumps(row) for row in rows))
    else:
        lines = [",".join(map(str, row.values())) for row in rows]
        table.write_text("\n".join([",".join(rows[0]), *lines]))
    return table


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("column", ["label", "species"])
def test_a_table_with_paths_and_labels_may_be_given_itself(tmp_path, suffix, column):
    table = listed(tmp_path, suffix, column)
    data = load_images(str(table), validation=0, label="" if column == "label" else column)
    assert data.classes == ("cat", "dog")
    assert data.name == "which"
    assert data.train.labels.tolist() == [pixel % 2 for pixel in data.train.pixels[:, 0, 0, 0].tolist()]
    assert len(data.train) + len(data.test) == 12


def test_a_label_column_that_is_not_there_is_named_with_the_nearest(tmp_path):
    with pytest.raises(InputError, match=r"unknown column 'lable'\. Did you mean 'label'"):
        load_images(str(listed(tmp_path, "csv")), label="lable")
    with pytest.raises(InputError, match=r"none of them is called label.*--target"):
        load_images(str(listed(tmp_path / "other", "parquet", "species")))


def test_a_table_of_numbers_is_no_table_of_images(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="no table that names images"):
        load_images(str(tmp_path / "t.csv"))


@pytest.mark.parametrize("line", ['{"prompt": "one"}', '{"question": "one", "reply": "two"}'])
def test_lines_without_a_known_field_are_told_which_a_text_has(tmp_path, line):
    (tmp_path / "asked.jsonl").write_text(line + "\n")
    with pytest.raises(InputError, match=r"a field text, or prompt and completion; another field: --text FIELD"):
        load_images(str(tmp_path / "asked.jsonl"))


def test_an_empty_folder_is_told_the_files_of_a_text_too(tmp_path):
    with pytest.raises(InputError, match=r"or, to learn a text, \.txt, \.md, \.rst or \.jsonl files"):
        load_images(str(tmp_path))
