"""Loading image sets: real sets, the hub's parquet layout, splits and labels, with every bad input a user may have."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from data_files import (
    CLASSES,
    all_train,
    first_pixels,
    folder_set,
    parquet_set,
    picture,
    png,
    replace_train,
    write_parquet,
)

from blocklocal._common.errors import InputError
from blocklocal.data import channel_statistics, load_images

torch.set_num_threads(1)
pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
SHARED = Path(__file__).parents[2] / "shared" / "data"


pytestmark = pytest.mark.usefixtures("empty_cache")


# --- real sets -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shape"), [("mnist", (1, 28, 28)), ("fashion_mnist", (1, 28, 28)), ("cifar10_jpeg", (3, 32, 32))]
)
def test_real_parquet_rows_decode_to_their_pixels_and_classes(name, shape, tmp_path):
    source = SHARED / name
    if not source.is_dir():
        pytest.skip(f"{source} is not here")
    (tmp_path / name).mkdir()
    for path in source.glob("*.parquet"):  # the first rows, with the metadata of the real file
        rows = next(pq.ParquetFile(path).iter_batches(200))
        pq.write_table(pa.Table.from_batches([rows]), tmp_path / name / path.name)
    real = all_train(tmp_path / name, train_size=150, test_size=50)
    assert (real.channels, real.height, real.width) == shape
    assert (len(real.train), len(real.test)) == (150, 50)
    assert len(real.classes) == 10
    assert real.train.labels.unique().tolist() == list(range(10))
    assert 0 < min(real.mean) <= max(real.mean) < 0.6
    assert max(real.std) < 0.5


def test_digits_scale_to_uint8_and_need_no_files():
    digits = load_images("digits")
    assert len(digits.train) + len(digits.validation) + len(digits.test) == 1797
    assert (digits.channels, digits.height, digits.width) == (1, 8, 8)
    assert (digits.train.pixels.min(), digits.train.pixels.max()) == (0, 255)
    assert digits.classes == tuple("0123456789")
    shares = digits.test.labels.bincount() / (digits.test.labels.bincount() + 0.0).sum()
    assert shares.min() > 0.08  # stratified: every digit holds about a tenth


def test_digits_resize_to_the_image_size():
    assert load_images("digits", image_size=12).train.pixels.shape[1:] == (1, 12, 12)


# --- splits ----------------------------------------------------------------------------------------------------------


def test_test_split_of_digits_is_the_same_for_every_split_seed():
    a, b = load_images("digits", split_seed=1), load_images("digits", split_seed=2)
    assert torch.equal(a.test.pixels, b.test.pixels)
    assert not torch.equal(a.validation.pixels, b.validation.pixels)


def test_train_and_validation_share_no_image_and_miss_none(tmp_path):
    data = load_images(str(parquet_set(tmp_path / "set", train=20)), validation=0.25)
    train, validation = first_pixels(data.train), first_pixels(data.validation)
    assert len(validation) == 5
    assert sorted(train + validation) == list(range(20))
    assert sorted(first_pixels(data.test)) == list(range(100, 106))


def test_labels_stay_with_their_images(tmp_path):
    data = load_images(str(parquet_set(tmp_path / "set", train=20)), validation=4)
    for part in (data.train, data.validation):
        assert part.labels.tolist() == [i % 3 for i in first_pixels(part)]


def test_a_small_training_subset_of_a_sorted_folder_is_mixed(tmp_path):
    data = all_train(folder_set(tmp_path / "set", 10), train_size=10)
    assert len(data.train.labels.unique()) == 3


def test_split_is_a_function_of_the_seed(tmp_path):
    root = parquet_set(tmp_path / "set", train=20)
    orders = [first_pixels(load_images(str(root), split_seed=seed).train) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]


def test_statistics_come_from_the_training_split_alone(tmp_path):
    data = load_images(str(parquet_set(tmp_path / "set", train=20)), validation=5, train_size=7)
    pixels = data.train.pixels.double() / 255
    assert data.mean[0] == pytest.approx(pixels.mean().item())
    assert data.std[0] == pytest.approx(pixels.std(correction=0).item())


def test_std_of_a_constant_channel_is_above_zero():
    mean, std = channel_statistics(torch.full((3, 1, 2, 2), 255, dtype=torch.uint8))
    assert mean == (1.0,)
    assert std[0] > 0


@pytest.mark.parametrize(
    ("options", "numbers"),
    [
        ({"train_size": 13}, "13.*12"),
        ({"test_size": 7}, "7.*6"),
        ({"validation": 12}, "12.*12"),
        ({"train_size": 0}, "0"),
    ],
)
def test_sizes_beyond_the_set_name_both_numbers(tmp_path, options, numbers):
    with pytest.raises(InputError, match=numbers):
        load_images(str(parquet_set(tmp_path / "set")), **{"validation": 0, **options})


@pytest.mark.parametrize("validation", [-1, 1.0, -0.1, True, float("nan")])
def test_validation_that_is_no_share_or_count_is_refused(validation):
    with pytest.raises(InputError, match="validation must be"):
        load_images("digits", validation=validation)


# --- parquet layouts -------------------------------------------------------------------------------------------------


def test_shards_in_a_data_subfolder_are_read_in_order(tmp_path):
    for k in range(2):
        shard = [png(picture(3 * k + i)) for i in range(3)]
        write_parquet(tmp_path / "set" / "data" / f"train-0000{k}-of-00002.parquet", shard, [0, 1, 2])
    write_parquet(
        tmp_path / "set" / "data" / "validation-00000-of-00001.parquet", [png(picture(9))], [1], column="image"
    )
    data = all_train(tmp_path / "set")
    assert sorted(first_pixels(data.train)) == list(range(6))
    assert first_pixels(data.test) == [9]
    assert data.name == "set"


def test_validation_file_is_not_the_test_split_where_there_is_one(tmp_path):
    root = parquet_set(tmp_path / "set")
    write_parquet(root / "validation-00000-of-00001.parquet", [png(picture(9))], [1])
    assert len(load_images(str(root)).test) == 6


def test_classes_without_metadata_are_numbers(tmp_path):
    assert load_images(str(parquet_set(tmp_path / "set", names=None, column="img"))).classes == ("0", "1", "2")


@pytest.mark.parametrize(
    ("values", "type_", "names", "message"),
    [
        ([0, 3, 1], None, CLASSES, "row 1: the label is 3.*3 classes"),
        ([0, 1, -1], None, CLASSES, "row 2: the label is -1.*3 classes"),
        ([0, 1, -1], None, None, "row 2: the label is -1"),
        ([0, 10**9, 1], None, None, "row 1: the label is 1000000000"),
        ([0, None, 1], None, CLASSES, "row 1: the label is missing"),
        ([0.5, 1, 1], "double", CLASSES, "row 0: the label is 0.5"),
        ([[0], [1], [2]], "list", CLASSES, r"row 0: the label is \[0\]"),
        ([float("nan"), 1, 1], "double", CLASSES, "row 0: the label is nan"),
    ],
)
def test_bad_labels_are_named_with_row_and_value(tmp_path, values, type_, names, message):
    root = parquet_set(tmp_path / "set", names=names)
    kinds = {None: None, "double": pa.float64(), "list": pa.list_(pa.int64())}
    options = {"type_": kinds[type_], "names": names}
    replace_train(root, [png(picture(i)) for i in range(3)], values, **options)
    with pytest.raises(InputError, match=rf"train-00000.*{message}"):
        load_images(str(root))


def test_missing_columns_name_those_there_are(tmp_path):
    with pytest.raises(InputError, match=r"no image column.*picture, label"):
        load_images(str(parquet_set(tmp_path / "a", column="picture")))
    with pytest.raises(InputError, match=r"no label column.*image, target"):
        load_images(str(parquet_set(tmp_path / "b", label="target")))


def test_missing_test_split_missing_shard_and_empty_sets_are_named(tmp_path):
    root = parquet_set(tmp_path / "a")
    (root / "test-00000-of-00001.parquet").unlink()
    with pytest.raises(InputError, match=r"no test split.*train-00000"):
        load_images(str(root))
    root = parquet_set(tmp_path / "b")
    (root / "train-00000-of-00001.parquet").rename(root / "train-00000-of-00003.parquet")
    with pytest.raises(InputError, match="1 of 3 files"):
        load_images(str(root))
    with pytest.raises(InputError, match="no images"):
        load_images(str(replace_train(parquet_set(tmp_path / "c"), [], [])))
    with pytest.raises(InputError, match="no rows"):
        load_images(str(parquet_set(tmp_path / "d", train=0, names=None)))
    with pytest.raises(InputError, match="empty list of class names"):
        load_images(str(parquet_set(tmp_path / "e", names=())))


@pytest.mark.parametrize("damage", [lambda data: b"not parquet", lambda data: data[: len(data) // 2], lambda data: b""])
def test_corrupt_parquet_is_named(tmp_path, damage):
    path = parquet_set(tmp_path / "set") / "test-00000-of-00001.parquet"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=r"cannot read .*test-00000-of-00001.parquet as parquet"):
        load_images(str(path.parent))
