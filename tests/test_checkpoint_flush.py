"""What a power cut may lose: nothing of a checkpoint that has its final name, whatever the disk has written so far."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from rule_helpers import network

from blocklocal.training.checkpoint import save_checkpoint
from blocklocal.training.checkpoint_folder import list_checkpoints


@pytest.fixture
def order(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, int]]:
    """(flush or rename, the path's name, its size), in the order in which they were asked of the system."""
    seen: list[tuple[str, str, int]] = []
    flush, rename = os.fsync, Path.rename

    def flushed(handle: int) -> None:
        name = Path(os.readlink(f"/proc/self/fd/{handle}")).name
        seen.append(("flush", name, os.fstat(handle).st_size))
        flush(handle)

    def renamed(path: Path, target: Path) -> Path:
        seen.append(("rename", Path(target).name, 0))
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(Path, "rename", renamed)
    return seen


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="the name of an open file cannot be asked here")
def test_all_files_of_a_checkpoint_and_its_folder_are_on_the_disk_before_it_gets_its_name(tmp_path, order):
    save_checkpoint(tmp_path, network("mlp"), {"step": 3})
    (path,) = list_checkpoints(tmp_path)
    before = order[: order.index(("rename", path.name, 0))]
    flushed = {name: size for kind, name, size in before if kind == "flush"}
    written = {file.name: file.stat().st_size for file in path.iterdir()}
    assert written.items() <= flushed.items()
    assert f".partial-{path.name}" in flushed  # the folder: the names of the files


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files cannot be counted here")
def test_a_saved_checkpoint_leaves_no_file_open(tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    save_checkpoint(tmp_path, network("mlp"), {"step": 3})
    assert len(os.listdir("/proc/self/fd")) == before
