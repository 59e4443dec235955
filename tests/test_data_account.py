"""Oracle: what was put into the folder. A line per split says what was read and left out; digests tell sets apart."""

from __future__ import annotations

import logging
import shutil

import pytest
import torch
from data_files import (
    CLASSES,
    all_train,
    class_folders,
    first_pixels,
    folder_set,
    labels,
    parquet_set,
    picture,
    png,
    replace_train,
    write_parquet,
)

from blocklocal._common.errors import InputError
from blocklocal.data import Images, ImageSet, load_images

pytestmark = pytest.mark.usefixtures("empty_cache")


# --- the account -----------------------------------------------------------------------------------------------------


def test_every_split_is_said_with_its_images_classes_channels_and_size(tmp_path):
    root = class_folders(tmp_path / "pets" / "train", start=0).parent
    class_folders(root / "test", start=100)
    assert load_images(str(root), validation=2, test_size=5).account == (
        "train: 10 of 12 images from pets/train, 3 classes, 1 channel, 6x5",
        "validation: 2 images from the 12 training images (drawn with split seed 0), 2 classes, 1 channel, 6x5",
        "test: 5 of 12 images from pets/test, 3 classes, 1 channel, 6x5",
    )


def test_a_fifth_that_was_set_aside_is_said():
    train, validation, test = load_images("digits", validation=0).account
    assert train == "train: 1,438 images from scikit-learn's digits, 10 classes, 1 channel, 8x8"
    assert validation == "validation: none"
    assert test.startswith("test: 359 images from scikit-learn's digits (a fixed fifth of every class), 10 classes")


def test_the_account_comes_from_the_cache_as_it_was(tmp_path):
    root = class_folders(tmp_path / "set", count=6)
    (root / "cat" / ".DS_Store").write_text("")
    first, second = load_images(str(root)), load_images(str(root))
    assert first.account == second.account
    assert "1 hidden file (.DS_Store)" in second.account[0]


def test_a_hidden_file_that_comes_later_is_said_though_the_images_are_cached(tmp_path):
    root = class_folders(tmp_path / "set", count=6)
    load_images(str(root))
    (root / "cat" / ".DS_Store").write_text("")
    assert "hidden file" in load_images(str(root)).account[0]


def test_images_that_cannot_be_decoded_are_counted_per_split(tmp_path):
    root = folder_set(tmp_path / "set", 3)
    (root / "train" / "cat" / "0.png").write_bytes(b"broken")
    for name in ("0.png", "1.png"):
        (root / "test" / "dog" / name).write_bytes(b"broken")
    data = load_images(str(root), validation=0, skip_bad=True)
    assert data.skipped == 3
    assert "left out: 1 image that cannot be decoded" in data.account[0]
    assert "left out: 2 images that cannot be decoded" in data.account[2]


# --- what is left out ------------------------------------------------------------------------------------------------

HIDDEN = [".ipynb_checkpoints", ".thumbnails", ".Trash-1000", "__MACOSX", "@eaDir"]


@pytest.mark.parametrize("name", HIDDEN)
@pytest.mark.parametrize("place", ["", "cat", "cat/more"])
def test_hidden_folders_are_left_out_anywhere_and_said(tmp_path, name, place):
    root = class_folders(tmp_path / "set", count=6)
    hidden = root / place / name
    hidden.mkdir(parents=True)
    for i in range(3):
        shutil.copy(root / "cat" / f"{i}.png", hidden / f"{i}-checkpoint.png")
    data = all_train(root)
    assert sorted(first_pixels(data.train) + first_pixels(data.test)) == list(range(18))
    assert f"1 hidden folder ({name})" in data.account[0]


def test_hidden_files_and_files_that_are_no_images_are_left_out_and_said(tmp_path):
    root = class_folders(tmp_path / "set", count=6)
    for name in ("._0.png", "Thumbs.db", "notes.txt", "0001"):
        (root / "dog" / name).write_bytes(b"x")
    data = all_train(root)
    assert len(data.train) + len(data.test) == 18
    assert "2 hidden files (._0.png, …), 2 files that are no images by their names (0001, …)" in data.account[0]


@pytest.mark.parametrize("suffix", [".PNG", ".Jpeg", ".jfif", ".JPE"])
def test_the_suffixes_of_images_count_in_any_case(tmp_path, suffix):
    root = class_folders(tmp_path / "set", count=6)
    picture(77).save(root / "dog" / "x.png")
    (root / "dog" / "x.png").rename(root / "dog" / f"x{suffix}")
    data = all_train(root)
    assert 77 in first_pixels(data.train) + first_pixels(data.test)


def test_a_class_folder_with_other_files_alone_is_refused_with_their_number(tmp_path):
    root = class_folders(tmp_path / "set")
    (root / "hen").mkdir()
    (root / "hen" / "0001").write_bytes(png(picture(1)))
    with pytest.raises(InputError, match=r"class folder .*hen holds no images .*It holds 1 other file"):
        load_images(str(root))


@pytest.mark.timeout(30)
@pytest.mark.parametrize("target", ["..", "../..", ".", "../dog"])
def test_links_to_folders_inside_a_class_are_not_followed_and_said(tmp_path, target):
    root = class_folders(tmp_path / "set", count=6)
    (root / "cat" / "link").symlink_to(target)
    data = all_train(root)
    assert sorted(first_pixels(data.train) + first_pixels(data.test)) == list(range(18))
    assert "1 link to a folder, which is not followed here (link)" in data.account[0]


@pytest.mark.timeout(30)
def test_a_class_folder_that_is_a_link_is_followed_but_not_upwards(tmp_path):
    root = class_folders(tmp_path / "set", count=6)
    class_folders(tmp_path / "elsewhere", ("hen",), count=6, start=50)
    (root / "hen").symlink_to(tmp_path / "elsewhere" / "hen")
    (root / "all").symlink_to(".")
    data = all_train(root)
    assert data.classes == ("cat", "dog", "hen", "owl")
    assert "not followed here (all)" in data.account[0]


def test_images_in_folders_inside_a_class_count_to_it_and_that_is_said(tmp_path):
    root = class_folders(tmp_path / "set", ("dog", "owl"), count=6)
    class_folders(root / "cat", ("black", "white"), count=3, start=50)
    data = all_train(root)
    assert data.classes == ("cat", "dog", "owl")
    assert "6 images in folders inside a class folder: of that class" in data.account[0]


# --- colours ---------------------------------------------------------------------------------------------------------


def coloured(i: int):
    image = picture(i, mode="RGB")
    image.putpixel((1, 1), (200, 10, 10))
    return image


@pytest.mark.parametrize("grey", [0, 3, 11])
def test_one_grey_image_never_makes_a_set_of_colour_images_grey(tmp_path, grey):
    images = [png(picture(i) if i == grey else coloured(i)) for i in range(12)]
    root = replace_train(tmp_path / "set", images, labels(12))
    write_parquet(root / "test.parquet", [png(coloured(100 + i)) for i in range(3)], labels(3))
    data = all_train(root)
    assert data.channels == 3
    assert data.train.pixels[first_pixels(data.train).index(5), :, 1, 1].tolist() == [200, 10, 10]
    plain = data.train.pixels[first_pixels(data.train).index(grey)]
    assert torch.equal(plain[0], plain[1])
    assert "grey shown in RGB, as others are in colour (1 image)" in data.account[0]


def test_where_all_training_images_are_grey_colours_of_the_test_split_are_turned_grey_and_that_is_said(tmp_path):
    root = parquet_set(tmp_path / "set")
    write_parquet(root / "test-00000-of-00001.parquet", [png(coloured(1)), png(picture(2))], [0, 1])
    data = all_train(root)
    assert data.channels == 1
    assert "colours turned grey, as all training images are grey (1 image)" in data.account[2]


def test_grey_pictures_that_are_stored_in_rgb_stay_rgb(tmp_path):
    root = replace_train(parquet_set(tmp_path / "set"), [png(picture(i, mode="RGB")) for i in range(3)], labels(3))
    assert all_train(root).channels == 3


# --- copies ----------------------------------------------------------------------------------------------------------


def test_copies_of_training_images_in_the_test_split_are_counted_and_kept(tmp_path, caplog):
    root = parquet_set(tmp_path / "set")
    images = [png(picture(i)) for i in (3, 4, 150, 151)]
    write_parquet(root / "test-00000-of-00001.parquet", images, labels(4))
    with caplog.at_level(logging.WARNING, "blocklocal"):
        data = all_train(root)
    assert len(data.test) == 4
    assert "2 of them are training images too, pixel for pixel" in data.account[2]
    assert "2 of 4 images of the test split are training images too" in caplog.text
    assert "pixel for pixel" not in data.account[0]


# --- memory ----------------------------------------------------------------------------------------------------------


def test_a_set_that_does_not_fit_into_memory_is_refused_at_its_first_image(tmp_path, monkeypatch):
    root = parquet_set(tmp_path / "set")
    opened: list[int] = []
    decode = pytest.importorskip("PIL.Image").open
    monkeypatch.setattr("PIL.Image.open", lambda *args: opened.append(1) or decode(*args))
    monkeypatch.setattr("blocklocal._common.limits.available_bytes", lambda: 2 * 18 * 30 - 1)
    with pytest.raises(
        InputError,
        match=r"18 images with the training split of set \(1x5x6 each\) would need .*: pass a smaller --image-size",
    ):
        load_images(str(root))
    assert len(opened) == 1
    monkeypatch.setattr("blocklocal._common.limits.available_bytes", lambda: 2 * 18 * 30)
    assert len(load_images(str(root)).test) == 6


def test_labels_that_do_not_fit_into_memory_are_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr("blocklocal._common.limits.available_bytes", lambda: 12 * 8 - 1)
    with pytest.raises(
        InputError,
        match=r"the 12 labels of .*train-.*\.parquet would need at least 96\.0 B of memory, and 95\.0 B are free",
    ):
        load_images(str(parquet_set(tmp_path / "set")))


def test_a_system_that_does_not_say_what_it_has_left_refuses_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("blocklocal._common.limits.available_bytes", lambda: None)
    assert len(load_images(str(parquet_set(tmp_path / "set"))).test) == 6


@pytest.mark.parametrize("data", ["digits", "set"])
def test_an_image_size_beyond_all_measure_is_refused(tmp_path, data):
    parquet_set(tmp_path / "set")
    with pytest.raises(InputError, match="image_size must be a whole number of at least 1 and at most 9,459, not 10"):
        load_images("digits" if data == "digits" else str(tmp_path / "set"), image_size=10**9)


# --- fingerprints ----------------------------------------------------------------------------------------------------


def swapped_labels(root):
    replace_train(root, [png(picture(i)) for i in range(12)], labels(12)[::-1])


def another_test_picture(root):
    write_parquet(root / "test-00000-of-00001.parquet", [png(picture(99 + i)) for i in range(6)], labels(6))


def other_names(root):
    parquet_set(root, names=("cat", "dog", "hen"))


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        (swapped_labels, {"train", "validation"}),
        (another_test_picture, {"test"}),
        (other_names, {"train", "validation", "test"}),
        (lambda root: None, set()),
    ],
    ids=["labels", "test picture", "names", "nothing"],
)
def test_fingerprints_change_with_labels_pictures_and_names_alone(tmp_path, change, changed):
    before = load_images(str(parquet_set(tmp_path / "set")), validation=4).fingerprint()
    change(tmp_path / "set")
    shutil.move(tmp_path / "set", tmp_path / "moved")
    after = load_images(str(tmp_path / "moved"), validation=4).fingerprint()
    assert list(before) == ["train", "validation", "test"]
    assert {split for split in before if before[split] != after[split]} == changed


def test_fingerprints_do_not_depend_on_the_number_of_threads():
    digits, threads = load_images("digits"), torch.get_num_threads()
    first = digits.fingerprint()
    torch.set_num_threads(3)
    try:
        assert load_images("digits").fingerprint() == first
    finally:
        torch.set_num_threads(threads)


def test_the_shape_is_part_of_a_fingerprint():
    def of(shape):
        pixels = torch.arange(12, dtype=torch.uint8).view(1, *shape)
        images = Images(pixels, torch.zeros(1, dtype=torch.int64))
        return ImageSet("x", images, images, images, CLASSES, (0.0,), (1.0,)).fingerprint()["train"]

    assert len({of((1, 3, 4)), of((1, 4, 3)), of((3, 2, 2))}) == 3
