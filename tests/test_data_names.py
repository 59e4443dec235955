"""Oracle: what a picture shows. Labels keep their meaning whatever order the class names of a file stand in."""

from __future__ import annotations

import os

import pytest
from data_files import (
    CLASSES,
    all_train,
    class_folders,
    first_pixels,
    hub_split,
    labels,
    parquet_set,
    picture,
    png,
    replace_train,
    serve_hub,
    write_parquet,
)

from blocklocal._common.errors import InputError
from blocklocal._common.ranges import MOST_CLASSES
from blocklocal._common.screen import printable
from blocklocal.data import load_images
from blocklocal.data.names import in_order

pa = pytest.importorskip("pyarrow")
TURNED = ("owl", "dog", "cat")


pytestmark = pytest.mark.usefixtures("empty_cache")


def pictures(first: int, count: int) -> list[bytes]:
    return [png(picture(first + i)) for i in range(count)]


def shown(data, split: str) -> list[str]:
    """The name of each image's class, in order of the first pixels."""
    images = getattr(data, split)
    pairs = sorted(zip(first_pixels(images), images.labels.tolist(), strict=True))
    return [data.classes[label] for _, label in pairs]


# --- names in another order ------------------------------------------------------------------------------------------


def test_a_test_file_whose_class_names_stand_in_another_order_is_mapped_by_name(tmp_path):
    root = parquet_set(tmp_path / "set")
    write_parquet(root / "test-00000-of-00001.parquet", pictures(100, 4), [0, 1, 2, 0], names=TURNED)
    data = all_train(root)
    assert data.classes == CLASSES
    assert shown(data, "test") == ["owl", "dog", "cat", "owl"]
    assert shown(data, "train") == ["cat", "dog", "owl"] * 4


def test_a_second_training_file_is_mapped_by_name(tmp_path):
    root = tmp_path / "set"
    write_parquet(root / "train-00000-of-00002.parquet", pictures(0, 3), [0, 1, 2])
    write_parquet(root / "train-00001-of-00002.parquet", pictures(3, 3), [0, 1, 2], names=TURNED)
    write_parquet(root / "test.parquet", pictures(100, 3), [0, 1, 2])
    assert shown(all_train(root), "train") == ["cat", "dog", "owl", "owl", "dog", "cat"]


def test_hub_splits_are_mapped_by_name(monkeypatch):
    serve_hub(monkeypatch, train=hub_split(0, labels(6)), test=hub_split(100, [0, 1, 2], names=TURNED))
    assert shown(all_train("someone/pets"), "test") == ["owl", "dog", "cat"]


def test_other_class_names_are_refused_with_both_lists(tmp_path, monkeypatch):
    root = parquet_set(tmp_path / "set")
    write_parquet(root / "test-00000-of-00001.parquet", pictures(100, 3), [0, 1, 2], names=("cat", "dog", "hen"))
    with pytest.raises(InputError, match=r"classes cat, dog, hen, but .* has cat, dog, owl: 'hen'"):
        load_images(str(root))
    serve_hub(monkeypatch, train=hub_split(0, labels(6)), test=hub_split(100, [0], names=("cat", "hen")))
    with pytest.raises(InputError, match=r"classes cat, hen, but .* has cat, dog, owl: 'hen'"):
        load_images("someone/pets")


@pytest.mark.parametrize("nameless", ["train-00000-of-00001.parquet", "test-00000-of-00001.parquet"])
def test_a_file_without_class_names_counts_in_those_of_the_other_and_that_is_said(tmp_path, nameless):
    root = parquet_set(tmp_path / "set")
    write_parquet(root / nameless, pictures(0, 6), labels(6), names=None)
    data = all_train(root)
    assert data.classes == CLASSES
    assert any("its labels are bare numbers" in line for line in data.account)


def test_a_class_name_that_stands_twice_is_refused(tmp_path):
    with pytest.raises(InputError, match="two classes called 'cat'"):
        load_images(str(parquet_set(tmp_path / "set", names=("cat", "dog", "cat"))))


# --- labels of other types -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("type_", [pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())])
def test_texts_are_names_in_alphabetical_order_in_every_split(tmp_path, type_):
    root = tmp_path / "set"
    words = ["owl", "cat", "dog"]
    write_parquet(root / "train.parquet", pictures(0, 6), words * 2, names=None, type_=type_)
    write_parquet(root / "test.parquet", pictures(100, 2), ["dog", "owl"], names=None, type_=type_)
    data = all_train(root)
    assert data.classes == ("cat", "dog", "owl")
    assert shown(data, "train") == words * 2
    assert shown(data, "test") == ["dog", "owl"]


def test_texts_are_mapped_to_the_class_names_of_the_file(tmp_path):
    root = tmp_path / "set"
    for name, first in (("train.parquet", 0), ("test.parquet", 100)):
        write_parquet(root / name, pictures(first, 3), ["dog", "owl", "cat"], names=TURNED, type_=pa.string())
    data = all_train(root)
    assert data.classes == TURNED
    assert shown(data, "train") == ["dog", "owl", "cat"]


def test_a_text_that_no_training_image_has_is_refused(tmp_path):
    root = tmp_path / "set"
    write_parquet(root / "train.parquet", pictures(0, 3), ["cat", "dog", "owl"], names=None, type_=pa.string())
    write_parquet(root / "test.parquet", pictures(100, 1), ["hen"], names=None, type_=pa.string())
    with pytest.raises(InputError, match=r"classes hen, but .* has cat, dog, owl"):
        load_images(str(root))


def test_texts_beside_numbers_are_refused(tmp_path):
    root = tmp_path / "set"
    write_parquet(root / "train.parquet", pictures(0, 3), ["cat", "dog", "owl"], names=None, type_=pa.string())
    write_parquet(root / "test.parquet", pictures(100, 1), [1], names=None)
    with pytest.raises(InputError, match=r"test.parquet has numbers as labels, but .*train.parquet has names"):
        load_images(str(root))


@pytest.mark.parametrize("type_", [pa.uint8(), pa.int32(), pa.uint64(), pa.float64(), pa.float32()])
def test_whole_numbers_of_any_type_are_labels(tmp_path, type_):
    data = all_train(parquet_set(tmp_path / "set", type_=type_))
    assert data.train.labels.tolist() == [i % 3 for i in first_pixels(data.train)]


def test_truth_values_are_two_classes(tmp_path):
    root = tmp_path / "set"
    for name in ("train.parquet", "test.parquet"):
        write_parquet(root / name, pictures(0, 4), [True, False] * 2, names=None, type_=pa.bool_())
    data = all_train(root)
    assert data.classes == ("False", "True")
    assert shown(data, "train") == ["True", "False"] * 2


@pytest.mark.parametrize("names", [None, CLASSES])
def test_more_classes_than_can_be_told_apart_are_refused_with_both_numbers(tmp_path, names):
    many = [str(i) for i in range(100_000)]
    root = parquet_set(tmp_path / "set")
    options = {"names": None, "type_": pa.string()} if names is None else {"names": many}
    values = many if names is None else labels(3)
    images = [b""] * len(values)
    replace_train(root, images, values, **options)
    with pytest.raises(InputError, match=f"100,000 classes, more than the {MOST_CLASSES:,}"):
        load_images(str(root))


# --- what can be learned ---------------------------------------------------------------------------------------------


def test_one_class_alone_is_named(tmp_path):
    class_folders(tmp_path / "photos", ("cat",))
    with pytest.raises(InputError, match=r"photos holds one class, 'cat': .*Expected two or more class folders"):
        load_images(str(tmp_path / "photos"))
    root = tmp_path / "set"
    for name in ("train.parquet", "test.parquet"):
        write_parquet(root / name, pictures(0, 3), [0] * 3, names=("cat",))
    with pytest.raises(InputError, match="set holds one class, 'cat'"):
        load_images(str(root))


def test_training_images_of_one_class_alone_are_refused(tmp_path):
    root = replace_train(parquet_set(tmp_path / "set"), pictures(0, 4), [1] * 4)
    with pytest.raises(InputError, match="set holds training images of one class alone, 'dog'"):
        load_images(str(root))


def test_more_classes_than_training_images_are_refused_with_both_numbers(tmp_path):
    names = [f"person {i}" for i in range(50)]
    root = parquet_set(tmp_path / "set", names=names)
    with pytest.raises(InputError, match="set has 50 classes, but only 12 training images"):
        load_images(str(root))


def test_classes_without_an_image_are_said(tmp_path):
    root = parquet_set(tmp_path / "set", names=(*CLASSES, "hen"))
    write_parquet(root / "test-00000-of-00001.parquet", pictures(100, 2), [0, 1], names=(*CLASSES, "hen"))
    data = all_train(root)
    assert "no image of hen" in data.account[0]
    assert "no image of owl, hen" in data.account[2]


def test_a_class_that_the_test_folder_lacks_is_said(tmp_path):
    class_folders(tmp_path / "set" / "train")
    class_folders(tmp_path / "set" / "test", ("dog",))
    data = all_train(tmp_path / "set")
    assert data.test.labels.unique().tolist() == [1]
    assert "no image of cat, owl" in data.account[2]


# --- names that cannot be shown --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (os.fsdecode(b"caf\xe9"), r"caf\xe9"),
        ("\ud800", r"\ud800"),
        ("a\nb\x1b[31m", r"a\x0ab\x1b[31m"),
        ("café 猫 \\xe9", "café 猫 \\xe9"),
        ("dog\u202egod\u2066", r"dog\u202egod\u2066"),
    ],
)
def test_names_are_shown_as_text_that_every_file_takes(name, text):
    assert printable(name, lines=False) == text
    assert printable(text, lines=False).encode() == text.encode()


def test_folders_whose_names_are_no_utf8_become_classes_that_can_be_written(tmp_path):
    root = class_folders(tmp_path / "set", ("cat", "dog"))
    os.rename(root / "cat", os.fsencode(root) + b"/caf\xe9")
    os.rename(root / "dog", os.fsencode(root) + b"/caf\xe8")
    data = all_train(root)
    assert data.classes == (r"caf\xe8", r"caf\xe9")
    for split in (data.train, data.test):  # the pictures of the first folder, now called caf\xe9, are 0 to 3
        assert split.labels.tolist() == [int(first < 4) for first in first_pixels(split)]


def test_lone_surrogates_in_class_names_of_a_file_are_escaped(tmp_path):
    data = all_train(parquet_set(tmp_path / "set", names=("cat", "d\ud83dg", "owl")))
    assert data.classes == ("cat", r"d\ud83dg", "owl")


def test_names_are_in_order_by_value_where_all_are_numbers():
    assert in_order(["10", "9", "1", "9"]) == ["1", "9", "10"]
    assert in_order(["10", "9", "a"]) == ["10", "9", "a"]
