"""Oracle: which pictures come back in which split. Splits go by their usual names, and stand-ins are said."""

from __future__ import annotations

import logging
import shutil

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
    serve_hub,
    write_parquet,
)

from blocklocal._common.errors import InputError
from blocklocal.data import load_images
from blocklocal.data.roles import role_of

pytestmark = pytest.mark.usefixtures("empty_cache")


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "role"),
    [
        *((name, "train") for name in ("train", "Train", "TRAINING", "training_set", "train-images", "train2017")),
        *((name, "test") for name in ("test", "Test", "testing", "test_set", "TestData")),
        *((name, "validation") for name in ("val", "valid", "Validation", "dev", "eval", "val_images")),
        *((name, None) for name in ("cat", "trains", "testimony", "valley", "contest", "develop", "cat_train_dog", "")),
    ],
)
def test_splits_are_known_by_their_usual_names_in_any_case(name, role):
    assert role_of(name) == role


@pytest.mark.parametrize(("train", "test"), [("Train", "Test"), ("training", "testing"), ("TRAIN", "val")])
def test_folders_with_the_names_of_splits_are_no_classes(tmp_path, train, test):
    class_folders(tmp_path / "set" / train)
    class_folders(tmp_path / "set" / test, count=2, start=100)
    data = all_train(tmp_path / "set")
    assert data.classes == CLASSES
    assert sorted(first_pixels(data.train)) == list(range(12))
    assert sorted(first_pixels(data.test)) == list(range(100, 106))


def test_a_split_that_is_a_link_is_followed(tmp_path):
    class_folders(tmp_path / "elsewhere")
    class_folders(tmp_path / "set" / "test", start=100)
    (tmp_path / "set" / "train").symlink_to(tmp_path / "elsewhere")
    assert sorted(first_pixels(all_train(tmp_path / "set").train)) == list(range(12))


def test_two_folders_of_one_split_are_refused(tmp_path):
    for name in ("train", "test", "val", "valid"):
        class_folders(tmp_path / "set" / name)
    with pytest.raises(InputError, match="'val' and 'valid': both are a validation split"):
        load_images(str(tmp_path / "set"))


def test_a_class_that_is_called_like_a_split_is_refused_with_the_remedy(tmp_path):
    class_folders(tmp_path / "set", ("car", "plane", "train"))
    with pytest.raises(InputError, match="never a class: rename it"):
        load_images(str(tmp_path / "set"))


def test_splits_inside_class_folders_are_refused(tmp_path):
    for name in CLASSES:
        class_folders(tmp_path / "set" / name, ("train", "test"))
    with pytest.raises(InputError, match=r"cat holds the split 'test'\. Expected the splits outside"):
        load_images(str(tmp_path / "set"))


def test_folders_beside_the_splits_are_left_out_and_said(tmp_path):
    for name in ("train", "test"):
        class_folders(tmp_path / "set" / name)
    class_folders(tmp_path / "set", ("extra",))
    data = all_train(tmp_path / "set")
    assert len(data.train) == 12
    assert "1 folder beside the splits (extra)" in data.account[0]


# --- validation ------------------------------------------------------------------------------------------------------


def folders(root, monkeypatch):
    for start, name in ((0, "train"), (50, "valid"), (100, "Test")):
        class_folders(root / name, start=start)
    return str(root)


def parquet(root, monkeypatch):
    parquet_set(root)
    write_parquet(root / "valid-00000-of-00001.parquet", [png(picture(50 + i)) for i in range(12)], labels(12))
    return str(root)


def hub(root, monkeypatch):
    serve_hub(
        monkeypatch, train=hub_split(0, labels(12)), dev=hub_split(50, labels(12)), test=hub_split(100, labels(6))
    )
    return "someone/pets"


KINDS = pytest.mark.parametrize("make", [folders, parquet, hub])


@KINDS
def test_a_set_s_own_validation_split_is_used_and_no_share_of_the_training_images(make, tmp_path, monkeypatch):
    data = load_images(make(tmp_path / "set", monkeypatch), validation=0.5)
    assert sorted(first_pixels(data.train)) == list(range(12))
    assert sorted(first_pixels(data.validation)) == list(range(50, 62))
    assert min(first_pixels(data.test)) == 100
    assert "the set's own validation split; no share of the training images is taken" in data.account[1]


@KINDS
def test_of_a_set_s_own_validation_split_a_count_takes_so_many_and_0_none(make, tmp_path, monkeypatch):
    name = make(tmp_path / "set", monkeypatch)
    few = load_images(name, validation=5)
    assert (len(few.train), len(few.validation)) == (12, 5)
    assert set(first_pixels(few.validation)) < set(range(50, 62))
    for nothing in (0, 0.0):
        none = load_images(name, validation=nothing)
        assert (len(none.train), len(none.validation)) == (12, 0)
        assert "as validation is 0" in none.account[1]
    with pytest.raises(InputError, match="13 is more than the 12"):
        load_images(name, validation=13)


@KINDS
def test_the_validation_split_comes_from_the_cache_as_it_was(make, tmp_path, monkeypatch):
    name = make(tmp_path / "set", monkeypatch)
    first, second = load_images(name), load_images(name)
    assert first.fingerprint() == second.fingerprint()
    assert first.account == second.account


@pytest.mark.parametrize("name", ["val", "validation", "dev"])
def test_where_there_is_no_test_split_the_validation_split_stands_in_and_that_is_said(tmp_path, name, caplog):
    class_folders(tmp_path / "set" / "train")
    class_folders(tmp_path / "set" / name, start=100)
    with caplog.at_level(logging.WARNING, "blocklocal"):
        data = load_images(str(tmp_path / "set"), validation=2)
    assert min(first_pixels(data.test)) == 100
    assert (len(data.validation), len(data.train)) == (2, 10)
    assert f"test: 12 images from set/{name} (the set has no test split)" in data.account[2]
    assert "is used as the test split" in caplog.text


# --- test splits without labels --------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [[-1] * 4, [None] * 4], ids=["-1", "null"])
def test_a_parquet_test_split_without_labels_gives_way_to_the_validation_split(tmp_path, values):
    root = parquet_set(tmp_path / "set")
    write_parquet(root / "test-00000-of-00001.parquet", [png(picture(200 + i)) for i in range(4)], values)
    with pytest.raises(InputError, match=r"has no labels.*no labelled validation split"):
        load_images(str(root))
    write_parquet(root / "validation-00000-of-00001.parquet", [png(picture(50 + i)) for i in range(3)], labels(3))
    data = all_train(root)
    assert first_pixels(data.test) == [50, 51, 52]
    assert "(the test split set/test-00000-of-00001.parquet has no labels)" in data.account[2]


def test_a_parquet_test_split_without_a_label_column_has_no_labels(tmp_path):
    root = parquet_set(tmp_path / "set")
    write_parquet(root / "test-00000-of-00001.parquet", [png(picture(1))], [0], label="other", names=None)
    write_parquet(root / "validation-00000-of-00001.parquet", [png(picture(50 + i)) for i in range(3)], labels(3))
    assert first_pixels(all_train(root).test) == [50, 51, 52]


@pytest.mark.parametrize("inner", ["", "images", "unknown", "test"])
def test_a_test_folder_without_class_folders_gives_way_to_the_validation_split(tmp_path, inner):
    class_folders(tmp_path / "set" / "train")
    place = tmp_path / "set" / "test" / inner
    place.mkdir(parents=True)
    picture(200).save(place / "1.png")
    with pytest.raises(InputError, match=r"the test split set/test has no labels \(1 image outside any class folder\)"):
        load_images(str(tmp_path / "set"))
    class_folders(tmp_path / "set" / "val", start=50)
    data = all_train(tmp_path / "set")
    assert min(first_pixels(data.test)) == 50
    assert "(the test split set/test has no labels)" in data.account[2]


def test_a_hub_test_split_without_labels_gives_way_to_the_validation_split(monkeypatch):
    parts = {"train": hub_split(0, labels(6)), "test": hub_split(100, [-1] * 3)}
    serve_hub(monkeypatch, **parts)
    with pytest.raises(InputError, match="the test split someone/pets, split test has no labels"):
        load_images("someone/pets")
    serve_hub(monkeypatch, **parts, validation=hub_split(50, labels(3)))
    assert first_pixels(all_train("someone/pets", cache=False).test) == [50, 51, 52]


def test_training_images_without_labels_are_refused(tmp_path):
    root = parquet_set(tmp_path / "set")
    write_parquet(root / "train-00000-of-00001.parquet", [png(picture(i)) for i in range(4)], [-1] * 4)
    with pytest.raises(InputError, match=r"the training images of .*set have no labels"):
        load_images(str(root))


def test_a_validation_split_without_labels_beside_a_test_split_is_left_out_and_said(tmp_path):
    root = parquet_set(tmp_path / "set")
    write_parquet(root / "validation-00000-of-00001.parquet", [png(picture(1))], [-1])
    data = load_images(str(root), validation=2)
    assert len(data.validation) == 2
    assert (
        "left out: the validation split set/validation-00000-of-00001.parquet, which has no labels" in data.account[0]
    )


# --- layouts of parquet files ----------------------------------------------------------------------------------------


def write(root, *names, start=0):
    for k, name in enumerate(names):
        write_parquet(root / name, [png(picture(start + 50 * k + i)) for i in range(6)], labels(6))


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("data/train-00000-of-00001.parquet", "data/valid-00000-of-00001.parquet"),
        ("train.parquet", "val.parquet"),
        ("plain_text/train-00000-of-00001.parquet", "plain_text/test-00000-of-00001.parquet"),
        ("train/0000.parquet", "test/0000.parquet"),
        ("default/train/0000.parquet", "default/test/0000.parquet"),
        ("pets-train-00000-of-00001.parquet", "pets-test-00000-of-00001.parquet"),
        ("data/train-00000-of-00001-0a1b2c3d.parquet", "data/test-00000-of-00001-4e5f.parquet"),
    ],
)
def test_parquet_layouts_of_the_hub_open(tmp_path, train, test):
    root = tmp_path / "set"
    write(root, train, test)
    (root / "README.md").write_text("about the set")
    data = all_train(root)
    assert sorted(first_pixels(data.train)) == list(range(6))
    assert first_pixels(data.test) == list(range(50, 56))


@pytest.mark.parametrize("name", ["train-00000-of-00001.parquet", "train/0000.parquet", "pets_train.parquet"])
def test_a_training_file_without_a_label_column_is_refused_with_its_columns(tmp_path, name):
    root = tmp_path / "set"
    write(root, "test.parquet", "validation.parquet")
    write_parquet(root / name, [png(picture(1))], [0], label="kind", names=None)
    with pytest.raises(InputError, match=r"has no label column\. Its columns are: image, kind\. Rename the right one"):
        all_train(root)


def test_several_configurations_are_named_with_the_path_of_one(tmp_path):
    for name in ("small", "large"):
        write(tmp_path / "set" / name, "train.parquet", "test.parquet")
    with pytest.raises(InputError, match=r"several configurations of a set: large, small. Give the path .*set/large"):
        load_images(str(tmp_path / "set"))
    assert len(load_images(str(tmp_path / "set" / "small")).test) == 6


def test_parquet_files_whose_names_say_no_split_are_named(tmp_path):
    write(tmp_path / "set", "0000.parquet")
    with pytest.raises(InputError, match=r"names say no split: 0000.parquet. Expected names like train-"):
        load_images(str(tmp_path / "set"))
    write(tmp_path / "set", "train.parquet", "test.parquet")
    assert "left out: parquet files whose names say no split (0000.parquet)" in all_train(tmp_path / "set").account[0]


def test_a_stray_parquet_file_among_images_is_no_parquet_set(tmp_path):
    class_folders(tmp_path / "set")
    write(tmp_path / "set", "features.parquet")
    assert all_train(tmp_path / "set").classes == CLASSES


def test_files_of_two_downloads_are_refused(tmp_path):
    write(tmp_path / "set", "train-00000-of-00001.parquet", "train-00000-of-00002.parquet", "test.parquet")
    with pytest.raises(InputError, match="different downloads"):
        load_images(str(tmp_path / "set"))


def test_a_pointer_of_git_lfs_is_named_with_the_remedy(tmp_path):
    write(tmp_path / "set", "train.parquet", "test.parquet")
    (tmp_path / "set" / "train.parquet").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    )
    with pytest.raises(InputError, match="git lfs pull"):
        load_images(str(tmp_path / "set"))


# --- configurations of the hub ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [
        "Config name is missing.\nPlease pick one among the available configs: ['small', 'large']\nExample of usage: …",
        "BuilderConfig 'tiny' not found. Available: ['small', 'large']",
    ],
)
def test_the_configurations_of_a_hub_set_are_named_with_how_to_choose_one(said, monkeypatch):
    def several(*name):
        raise ValueError(said)

    monkeypatch.setattr(pytest.importorskip("datasets"), "load_dataset", several)
    with pytest.raises(InputError, match=r"configurations small, large.*someone/pets:small"):
        load_images("someone/pets")


def test_a_configuration_of_a_hub_set_is_chosen_behind_a_colon(monkeypatch):
    asked = serve_hub(monkeypatch, train=hub_split(0, labels(6)), test=hub_split(100, labels(3)))
    data = load_images("someone/pets:small-1.0")
    assert asked == [("someone/pets", "small-1.0")]
    assert data.name == "someone/pets:small-1.0"


def test_other_splits_of_a_hub_set_are_left_out_and_said(monkeypatch):
    split = hub_split(0, labels(6))
    serve_hub(monkeypatch, train=split, test=split, unsupervised=split)
    assert "left out: the splits unsupervised" in load_images("someone/pets").account[0]


def test_a_test_split_that_is_removed_later_changes_what_is_cached(tmp_path):
    for start, name in ((0, "train"), (50, "val"), (100, "test")):
        class_folders(tmp_path / "set" / name, start=start)
    assert len(load_images(str(tmp_path / "set")).validation) == 12
    shutil.rmtree(tmp_path / "set" / "test")
    assert min(first_pixels(load_images(str(tmp_path / "set")).test)) == 50
