"""Images left on disk: the same batches bit for bit, little memory, and nothing half written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from data_files import class_folders, folder_set, parquet_set, picture, png, replace_train

from blocklocal._common.errors import InputError
from blocklocal.data import Batches, channel_statistics, load_images
from blocklocal.data.draft import Draft
from blocklocal.data.pixel_file import PixelFile
from blocklocal.data.prefetch import ahead

pytestmark = pytest.mark.usefixtures("empty_cache")


def equal(a, b) -> bool:
    splits = ("train", "validation", "test")
    same = all(torch.equal(getattr(a, s).read(), getattr(b, s).read()) for s in splits)
    labels = all(torch.equal(getattr(a, s).labels, getattr(b, s).labels) for s in splits)
    return (
        same and labels and (a.classes, a.mean, a.std, a.fingerprint()) == (b.classes, b.mean, b.std, b.fingerprint())
    )


def mixed_set(root: Path) -> Path:
    """Class folders of grey pictures, with one in colour among the last training images."""
    folder_set(root, 5)
    picture(200, mode="RGB").save(root / "train" / "owl" / "4.png")
    return root


@pytest.mark.parametrize("make", [mixed_set, parquet_set])
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_a_set_on_disk_is_the_set_in_memory_whatever_the_number_of_workers(tmp_path, make, workers):
    root = str(make(tmp_path / "set"))
    memory = load_images(root, cache=False, images_in="memory", workers=0, validation=3)
    disk = load_images(root, cache=False, images_in="disk", workers=workers, validation=3)
    assert isinstance(disk.train.pixels, PixelFile)
    assert equal(memory, disk)
    assert disk.account[:3] == memory.account[:3]


def test_shuffled_augmented_batches_are_the_same_from_any_step_and_for_any_share(tmp_path):
    root = str(mixed_set(tmp_path / "set"))
    memory, disk = (load_images(root, images_in=each, validation=0) for each in ("memory", "disk"))
    for share in ((0, 1), (1, 2)):
        options = {"batch_size": 4, "mean": memory.mean, "std": memory.std, "shuffle": True, "share": share}
        a, b = (Batches(each.train, augment="crop,flip", seed=3, **options) for each in (memory, disk))
        for epoch, start in ((0, 0), (1, 2)):
            pairs = list(zip(a.epoch(epoch, start), b.epoch(epoch, start), strict=True))
            assert pairs
            assert all(torch.equal(x, v) and torch.equal(y, w) for (x, y), (v, w) in pairs)


def test_a_file_written_by_either_way_serves_the_other(tmp_path, monkeypatch):
    root = str(mixed_set(tmp_path / "set"))
    first = load_images(root, images_in="disk")
    monkeypatch.setattr("blocklocal.data.load._read", None)  # nothing is decoded again
    assert equal(first, load_images(root, images_in="memory"))
    assert equal(first, load_images(root, images_in="disk"))
    assert len(list((tmp_path / "cache" / "blocklocal").iterdir())) == 1


def test_images_left_out_leave_no_gap(tmp_path):
    root = parquet_set(tmp_path / "set")
    replace_train(root, [png(picture(1)), b"broken", *(png(picture(i)) for i in range(2, 5))], [0, 1, 2, 1, 0])
    memory, disk = (load_images(str(root), skip_bad=True, validation=0, images_in=each) for each in ("memory", "disk"))
    assert equal(memory, disk)
    assert disk.skipped == 1
    with pytest.raises(InputError, match="skip-bad"):
        load_images(str(root), validation=0, images_in="disk", cache=False)


def test_memory_is_taken_where_the_set_fits_and_disk_where_it_does_not(tmp_path, monkeypatch):
    root = str(class_folders(tmp_path / "set"))
    assert isinstance(load_images(root).train.pixels, torch.Tensor)
    monkeypatch.setattr("blocklocal.data.stacks.available_bytes", lambda: 1000)
    data = load_images(root)
    assert isinstance(data.train.pixels, PixelFile)
    assert "read from disk batch by batch" in data.account[-1]


def test_an_unknown_place_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"unknown images_in 'disc'\. Did you mean 'disk'"):
        load_images(str(class_folders(tmp_path / "set")), images_in="disc")


def test_a_full_disk_ends_with_an_error_and_no_file(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, os.strerror(28))

    root = str(class_folders(tmp_path / "set"))
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(InputError, match=r"No space left.*BLOCKLOCAL_CACHE"):
        load_images(root, images_in="disk")
    assert list((tmp_path / "cache" / "blocklocal").iterdir()) == []


def test_too_little_room_is_found_before_anything_is_decoded(tmp_path, monkeypatch):
    root = str(class_folders(tmp_path / "set"))
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 10}))
    with pytest.raises(InputError, match=r"need .* on disk, and .* has 10\.0 B left"):
        load_images(root, images_in="disk")


def test_a_kill_leaves_no_file_under_its_name_and_the_next_writer_clears_up(tmp_path):
    folder = tmp_path / "cache"
    write = f"""
import time, numpy as np
from pathlib import Path
from blocklocal.data.draft import Draft
draft = Draft(Path({str(folder)!r}), ("a",))
draft.write(np.zeros(100, np.uint8), draft.data)
print("written", flush=True)
time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", write], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"written\n"
    Draft(folder, ("a",)).discard()
    assert len(list(folder.iterdir())) == 1  # that of a living writer stays
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    Draft(folder, ("a",)).discard()
    assert list(folder.iterdir()) == []


def test_a_file_that_is_cut_short_is_named(tmp_path):
    data = load_images(str(class_folders(tmp_path / "set")), images_in="disk")
    (file,) = (tmp_path / "cache" / "blocklocal").iterdir()
    os.truncate(file, 100)
    with pytest.raises(InputError, match="was cut short"):
        data.train.read()


def test_rows_are_read_in_any_order_and_more_than_once(tmp_path):
    data = load_images(str(class_folders(tmp_path / "set")), images_in="disk", validation=0)
    whole = data.train.read()
    for chosen in (torch.tensor([5, 0, 0, 3, 4]), slice(2, 6), torch.arange(len(whole)) % 2 == 0):
        assert torch.equal(data.train.pixels[chosen], whole[chosen])
        assert torch.equal(data.train.subset(chosen).read(), whole[chosen])
    assert channel_statistics(data.train.pixels) == channel_statistics(whole)


def test_the_next_item_is_made_while_one_is_used_and_an_error_comes_in_its_place():
    made = []

    def items():
        for i in range(3):
            made.append(i)
            yield i
        raise ValueError("after three")

    reading = ahead(items())
    assert next(reading) == 0
    deadline = time.monotonic() + 10
    while len(made) < 2 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert made == [0, 1]
    assert [next(reading), next(reading)] == [1, 2]
    with pytest.raises(ValueError, match="after three"):
        next(reading)


def test_a_process_that_decodes_loads_no_torch():
    code = "import sys, blocklocal.data.worker; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_a_set_of_the_hub_is_the_same_streamed_and_downloaded(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    root, real, asked = parquet_set(tmp_path / "set"), datasets.load_dataset, []

    def from_here(name, **options):
        asked.append(options)
        return real(str(root), cache_dir=str(tmp_path / "hub"), **options)

    monkeypatch.setattr(datasets, "load_dataset", from_here)
    downloaded = load_images("owner/name", cache=False, validation=0)
    streamed = load_images("owner/name", cache=False, validation=0, stream=True, images_in="disk")
    assert equal(downloaded, streamed)
    assert asked == [{}, {"streaming": True}]
