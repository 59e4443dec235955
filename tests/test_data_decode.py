"""Image folders, hub sets and the decoding they share: modes, sizes and damaged files."""

from __future__ import annotations

import logging
import shutil

import pytest
import torch
from data_files import CLASSES, Image, all_train, first_pixels, folder_set, parquet_set, picture, png, replace_train

from blocklocal._common.errors import InputError
from blocklocal.data import Images, load_images

torch.set_num_threads(1)


pytestmark = pytest.mark.usefixtures("empty_cache")


# --- folders ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("test_name", ["test", "val"])
def test_folder_with_splits_takes_classes_from_folder_names(tmp_path, test_name):
    data = all_train(folder_set(tmp_path / "pets", 4, ("train", test_name)))
    assert data.classes == CLASSES
    assert data.name == "pets"
    assert (len(data.train), len(data.test)) == (12, 12)
    assert data.train.labels.tolist() == [value // 4 for value in first_pixels(data.train)]


def test_plain_class_folders_give_a_fixed_stratified_fifth_to_the_test_split(tmp_path):
    root = folder_set(tmp_path, 10, ("pets",)) / "pets"
    a, b = all_train(root, split_seed=1), all_train(root, split_seed=2)
    assert a.test.labels.bincount().tolist() == [2, 2, 2]
    assert torch.equal(a.test.pixels, b.test.pixels)
    assert sorted(first_pixels(a.train) + first_pixels(a.test)) == list(range(30))


def test_files_that_are_no_images_and_hidden_files_are_passed_over(tmp_path):
    root = folder_set(tmp_path / "pets", 2)
    (root / "train" / "cat" / "notes.txt").write_text("x")
    (root / "train" / "cat" / "._0.png").write_text("x")
    (root / "train" / ".git").mkdir()
    picture(77).save(root / "train" / "cat" / "UPPER.BMP")
    assert 77 in first_pixels(all_train(root).train)
    assert len(all_train(root).train) == 7


def _empty_class(root):
    shutil.rmtree(root / "train" / "dog")
    (root / "train" / "dog").mkdir()


def _unknown_test_class(root):
    (root / "test" / "owl").rename(root / "test" / "hen")


def _one_level_too_high(root):
    (root / "train").rename(root / "test" / "x")
    (root / "test").rename(root / "inner")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_empty_class, r"class folder .*dog holds no images"),
        (_unknown_test_class, r"hen is not one of the 3 classes.*cat, dog, owl"),
        (lambda root: shutil.rmtree(root / "test"), "no test split"),
        (lambda root: shutil.rmtree(root / "train"), r"'test' but none named 'train'"),
        (lambda root: [shutil.rmtree(root / "train" / name) for name in CLASSES], "no class folders"),
        (_one_level_too_high, r"Did you mean .*inner"),
    ],
)
def test_broken_folder_layouts_are_named(tmp_path, damage, message):
    root = folder_set(tmp_path / "pets", 2)
    damage(root)
    with pytest.raises(InputError, match=message):
        load_images(str(root))


def test_one_image_per_class_leaves_nothing_to_test(tmp_path):
    with pytest.raises(InputError, match="one image per class"):
        load_images(str(folder_set(tmp_path, 1, ("pets",)) / "pets"))


@pytest.mark.parametrize("data", ["/no/such/folder", "./nothing", "../a/b/c", "~/no such", "~nobody-here/x", ""])
def test_a_path_that_is_not_there_is_named(data):
    with pytest.raises(InputError, match="there is no folder") as error:
        load_images(data)
    assert data in str(error.value)


def test_a_file_in_place_of_a_folder_is_refused(tmp_path):
    root = parquet_set(tmp_path / "set")
    with pytest.raises(InputError, match="is a file"):
        load_images(str(root / "train-00000-of-00001.parquet"))


# --- modes and sizes -------------------------------------------------------------------------------------------------


def grid(mode: str):
    return Image.new(
        mode, (6, 5), {"RGB": (255, 0, 0), "CMYK": (0, 255, 255, 0), "RGBA": (255, 0, 0, 255)}.get(mode, 200)
    )


@pytest.mark.parametrize(
    ("image", "channels", "pixel"),
    [
        (grid("L"), 1, [200]),
        (grid("RGB"), 3, [255, 0, 0]),
        (grid("RGBA"), 3, [255, 0, 0]),
        (Image.new("RGBA", (6, 5), (9, 9, 9, 0)), 3, [255, 255, 255]),
        (Image.new("LA", (6, 5), (9, 0)), 1, [255]),
        (Image.new("1", (6, 5), 1), 1, [255]),
        (Image.new("I;16", (6, 5), 200 * 256 + 17), 1, [200]),
        (grid("RGB").convert("P"), 3, [255, 0, 0]),
        (grid("L").convert("P"), 1, [200]),
    ],
    ids=["L", "RGB", "RGBA", "transparent", "LA", "1", "I;16", "P", "grey P"],
)
def test_images_of_one_kind_are_grey_or_colour_as_their_format_is(tmp_path, image, channels, pixel):
    root = replace_train(parquet_set(tmp_path / "set"), [png(image)] * 3, [0, 1, 2])
    data = all_train(root)
    assert data.channels == channels == data.test.pixels.shape[1]
    assert data.train.pixels[0, :, 0, 0].tolist() == pixel


def test_cmyk_jpeg_becomes_rgb(tmp_path):
    root = folder_set(tmp_path / "set", 1)
    grid("CMYK").save(root / "train" / "cat" / "0.jpg")
    (root / "train" / "cat" / "0.png").unlink()
    red, green, blue = all_train(root).train.pixels[:, :, 0, 0][all_train(root).train.labels == 0][0].tolist()
    assert red > 250
    assert max(green, blue) < 5


def test_images_of_another_size_are_named_and_image_size_helps(tmp_path):
    root = folder_set(tmp_path / "set", 2)
    picture(5, (9, 7)).save(root / "train" / "dog" / "1.png")
    with pytest.raises(InputError, match=r"dog.1\.png has 9x7 pixels.*cat.0\.png has 6x5.*--image-size"):
        load_images(str(root))
    assert all_train(root, image_size=4).train.pixels.shape == (6, 1, 4, 4)


def test_image_size_keeps_the_centre_of_the_longer_side(tmp_path):
    wide = Image.new("L", (12, 4), 0)
    wide.paste(255, (4, 0, 8, 4))
    root = replace_train(parquet_set(tmp_path / "set"), [png(wide)] * 3, [0, 1, 2])
    assert all_train(root, image_size=4).train.pixels.unique().tolist() == [255]


def test_images_of_another_size_in_the_test_split_are_named(tmp_path):
    root = folder_set(tmp_path / "set", 2)
    picture(5, (9, 7)).save(root / "test" / "dog" / "1.png")
    with pytest.raises(InputError, match=r"test.dog.1\.png has 9x7"):
        load_images(str(root))


# --- damaged images --------------------------------------------------------------------------------------------------


def truncated() -> bytes:
    noisy = Image.effect_noise((64, 64), 90)
    return png(noisy)[:-600]


@pytest.mark.parametrize(
    "broken",
    [b"", b"not an image", truncated(), png(picture(1))[:40], None],
    ids=["empty", "text", "cut short", "header alone", "missing"],
)
def test_an_image_that_cannot_be_decoded_is_named_by_row(tmp_path, broken):
    root = replace_train(parquet_set(tmp_path / "set"), [png(picture(1)), broken, png(picture(2))], [0, 1, 2])
    with pytest.raises(InputError, match=r"train-00000-of-00001.parquet, row 1.*--skip-bad"):
        load_images(str(root))


def test_skip_bad_counts_what_it_leaves_out_and_keeps_labels_aligned(tmp_path, caplog):
    root = folder_set(tmp_path / "set", 3)
    (root / "train" / "cat" / "0.png").write_bytes(b"broken")
    (root / "train" / "dog" / "2.png").unlink()
    (root / "train" / "dog" / "2.png").symlink_to("gone.png")
    with caplog.at_level(logging.WARNING, "blocklocal"):
        data = all_train(root, skip_bad=True)
    assert data.skipped == 2
    assert "left out 2 of 18" in caplog.text
    assert "cat/0.png" in caplog.text
    assert sorted(zip(first_pixels(data.train), data.train.labels.tolist(), strict=True)) == [
        (1, 0), (2, 0), (3, 1), (4, 1), (6, 2), (7, 2), (8, 2),
    ]  # fmt: skip


def test_a_split_with_no_image_left_is_an_error_even_with_skip_bad(tmp_path):
    root = replace_train(parquet_set(tmp_path / "set"), [b"x", b"y", b"z"], [0, 1, 2])
    with pytest.raises(InputError, match="none of the 3 images"):
        load_images(str(root), skip_bad=True)


def test_images_refuses_tensors_of_another_type_or_length():
    with pytest.raises(InputError, match="uint8"):
        Images(torch.zeros(2, 1, 3, 3), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(InputError, match="one per image"):
        Images(torch.zeros(2, 1, 3, 3, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64))


# --- hub -------------------------------------------------------------------------------------------------------------


def hub_set(folder, names=CLASSES):
    """What `datasets.load_dataset` returns for a hub set: images as bytes in one split, as a file in the other."""
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=list(names))})
    train = {"img": [{"bytes": png(picture(i)), "path": None} for i in range(6)], "label": [i % 3 for i in range(6)]}
    picture(42).save(folder / "one.png")
    test = {"img": [str(folder / "one.png")], "label": [2]}
    parts = {"train": train, "validation": test}
    return datasets.DatasetDict({name: datasets.Dataset.from_dict(part, features) for name, part in parts.items()})


def test_hub_set_is_read_once_and_then_comes_from_the_cache(tmp_path, monkeypatch):
    datasets, asked = pytest.importorskip("datasets"), []
    monkeypatch.setattr(datasets, "load_dataset", lambda name: asked.append(name) or hub_set(tmp_path))
    for _ in range(2):
        data = all_train("someone/pets")
        assert (data.name, data.classes) == ("someone/pets", CLASSES)
        assert sorted(first_pixels(data.train)) == list(range(6))
        assert data.train.labels.tolist() == [i % 3 for i in first_pixels(data.train)]
        assert (first_pixels(data.test), data.test.labels.tolist()) == ([42], [2])
    assert asked == ["someone/pets"]


def test_hub_failure_says_what_failed_and_what_to_do(monkeypatch):
    def unreachable(name):
        raise ConnectionError(f"Couldn't reach {name!r} on the Hub")

    monkeypatch.setattr(pytest.importorskip("datasets"), "load_dataset", unreachable)
    with pytest.raises(InputError, match=r"'someone/pets'.*Couldn't reach.*spelling.*network.*folder"):
        load_images("someone/pets")


def test_hub_set_without_a_test_split_names_its_splits(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets, "load_dataset", lambda name: datasets.DatasetDict(train=hub_set(tmp_path)["train"]))
    with pytest.raises(InputError, match=r"no test split. Its splits are: train"):
        load_images("someone/pets")
