"""The cache of decoded sets: it is used when it can be, and never stops a run."""

from __future__ import annotations

import logging
import os

import pytest
import torch
from data_files import all_train, first_pixels, parquet_set, picture, png, replace_train

from blocklocal._common.errors import InputError
from blocklocal.data import load_images
from blocklocal.data.decode import ImageDecoder

torch.set_num_threads(1)


pytestmark = pytest.mark.usefixtures("empty_cache")


@pytest.fixture
def decodes(monkeypatch) -> list:
    """Grows by one with every split that is decoded."""
    calls: list = []
    original = ImageDecoder.split
    monkeypatch.setattr(ImageDecoder, "split", lambda self, *args: calls.append(1) or original(self, *args))
    return calls


def test_second_load_comes_from_the_cache_and_is_equal(tmp_path, decodes):
    root = parquet_set(tmp_path / "set")
    a, b = load_images(str(root)), load_images(str(root))
    assert len(decodes) == 2  # train and test, once
    assert torch.equal(a.train.pixels, b.train.pixels)
    assert (a.classes, a.mean, a.std, a.name) == (b.classes, b.mean, b.std, b.name)


def test_changed_source_or_size_or_cache_false_decodes_again(tmp_path, decodes):
    root = parquet_set(tmp_path / "set")
    load_images(str(root))
    load_images(str(root), image_size=4)
    load_images(str(root), cache=False)
    replace_train(root, [png(picture(50 + i)) for i in range(4)], [0, 1, 2, 0])
    assert sorted(first_pixels(all_train(root).train)) == [50, 51, 52, 53]
    assert len(decodes) == 8


def test_damaged_cache_file_is_made_again(tmp_path, decodes):
    root = parquet_set(tmp_path / "set")
    load_images(str(root))
    (file,) = (tmp_path / "cache" / "blocklocal").iterdir()
    file.write_bytes(file.read_bytes()[:100])
    load_images(str(root))
    load_images(str(root))
    assert len(decodes) == 4


def test_cache_that_cannot_be_written_only_warns(tmp_path, caplog):
    blocked = tmp_path / "file"
    blocked.write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING, "blocklocal"):
        data = load_images(str(parquet_set(tmp_path / "set")), cache_dir=blocked)
    assert len(data.test) == 6
    assert "cannot be kept" in caplog.text


def test_full_disk_only_warns_and_leaves_no_temporary_file(tmp_path, caplog, monkeypatch):
    def no_space(*args):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "replace", no_space)
    with caplog.at_level(logging.WARNING, "blocklocal"):
        load_images(str(parquet_set(tmp_path / "set")))
    assert os.strerror(28) in caplog.text
    assert list((tmp_path / "cache" / "blocklocal").iterdir()) == []


def test_cache_made_with_images_left_out_does_not_hide_them_from_a_strict_run(tmp_path, decodes):
    root = parquet_set(tmp_path / "set")
    replace_train(root, [png(picture(1)), b"broken", *(png(picture(i)) for i in range(2, 5))], [0, 1, 2, 1, 0])
    for _ in range(2):
        assert load_images(str(root), validation=0, skip_bad=True).skipped == 1
    assert len(decodes) == 2
    with pytest.raises(InputError, match="skip-bad"):
        load_images(str(root), validation=0)
