"""Oracle: what was saved. A checkpoint is complete or not there, whatever happens while it is written."""

import errno
import json
import os
import shutil
import sys
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from run_helpers import equal, file_limit

from blocklocal import BlockLocal
from blocklocal._common.errors import InputError
from blocklocal.block.optim import adam, sgd
from blocklocal.models import build_model
from blocklocal.splitting import split
from blocklocal.training.checkpoint import load_checkpoint, save_checkpoint
from blocklocal.training.checkpoint_folder import list_checkpoints

X, Y = torch.randn(8, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3


def network(width: int = 4, blocks: int = 2, steps: int = 0, **settings) -> BlockLocal:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model("mlp", classes=3, channels=1, image_size=(4, 4), width=width)
    made = BlockLocal(split(model, blocks=blocks), classes=3, **{"readout": 0, **settings})
    made.configure(made._optimisation[0], "one-cycle", 20)
    for _ in range(steps):
        made.step(X, Y)
    return made


def states(made: BlockLocal) -> list:
    return [(u.state_dict(), u.optimizer.state_dict(), u.schedule.state_dict()) for u in made.learners]


def saved(folder: Path, *steps: int) -> BlockLocal:
    made = network()
    for step in range(1, max(steps) + 1):
        made.step(X, Y)
        if step in steps:
            save_checkpoint(folder, made, {"step": step})
    return made


def names(folder: Path) -> list[str]:
    return [path.name for path in list_checkpoints(folder)]


# --- what is saved is what is loaded


def test_weights_optimizers_schedules_and_state_come_back_bit_for_bit(tmp_path):
    made = network(steps=3, readout=1, reconstruction=0.5)
    path = save_checkpoint(tmp_path, made, {"step": 3, "note": {"more": [0.1]}})
    fresh = network(readout=1, reconstruction=0.5)
    assert load_checkpoint(path, fresh) == {"step": 3, "note": {"more": [0.1]}}
    assert fresh.steps == 3
    assert equal(states(made), states(fresh))


def test_a_loaded_network_takes_the_same_next_step(tmp_path):
    made = network(steps=3)
    fresh = network()
    load_checkpoint(save_checkpoint(tmp_path, made, {"step": 3}), fresh)
    made.step(X, Y), fresh.step(X, Y)
    assert equal(states(made), states(fresh))


def test_loading_for_prediction_leaves_the_optimizers_alone(tmp_path):
    path = save_checkpoint(tmp_path, network(steps=3), {"step": 3})
    for file in path.glob("*.optimizer"):
        file.write_bytes(b"")
    fresh = network()
    before = fresh.learners[0].optimizer.state_dict()
    load_checkpoint(path, fresh, optimizers=False)
    assert equal(fresh.learners[0].optimizer.state_dict(), before)


def test_there_is_one_safetensors_file_per_block(tmp_path):
    path = save_checkpoint(tmp_path, network(blocks=3), {"step": 0})
    assert sorted(file.name for file in path.glob("*.safetensors")) == [f"block-{k}.safetensors" for k in range(3)]


# --- which are kept


def test_the_two_newest_are_kept(tmp_path):
    saved(tmp_path, 1, 2, 3, 4)
    assert names(tmp_path) == ["step-00000003", "step-00000004"]
    assert len(list(tmp_path.iterdir())) == 2


def test_a_second_checkpoint_of_one_step_replaces_the_first_and_not_the_older(tmp_path):
    made = saved(tmp_path, 1, 2)
    for part in ("again", "and again"):
        path = save_checkpoint(tmp_path, made, {"step": 2, "part": part})
        assert names(tmp_path) == ["step-00000001", path.name]
        assert load_checkpoint(list_checkpoints(tmp_path)[-1], network())["part"] == part


def test_going_on_from_an_older_checkpoint_makes_its_successor_the_newest(tmp_path):
    saved(tmp_path, 3, 6)
    made = network()
    load_checkpoint(list_checkpoints(tmp_path)[0], made)
    made.step(X, Y)
    save_checkpoint(tmp_path, made, {"step": 4})
    assert names(tmp_path) == ["step-00000003", "step-00000004"]


# --- interrupted while saving


class Killed(BaseException):
    """Nothing catches it on purpose."""


class Disk:
    """Counts changes of the disk below `folder` (Python reports them to audit hooks); raises Killed at number `point`.

    dead: and at everything after it, as a process that is gone changes nothing more, not even to clean up.
    """

    armed: ClassVar[list["Disk"]] = []

    def __init__(self, folder: Path, point: int, dead: bool = False):
        self.folder, self.point, self.dead = str(folder), point, dead
        self.count = 0

    def saw(self, event: str, args: tuple) -> None:
        if event == "open":
            writes = args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if not writes or not str(args[0]).startswith(self.folder):
                return
        elif event not in ("os.mkdir", "os.rename", "os.remove", "os.rmdir"):
            return
        self.count += 1
        if self.count == self.point or (self.dead and self.count > self.point):
            raise Killed

    def __enter__(self) -> "Disk":
        self.armed.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        self.armed.clear()


# Once and for good: Python never removes an audit hook.
sys.addaudithook(lambda event, args: Disk.armed[0].saw(event, args) if Disk.armed else None)


def count_changes(folder: Path, step: int) -> int:
    made = saved(folder, 1, 2)
    with Disk(folder, -1) as disk:
        save_checkpoint(folder, made, {"step": step})
    return disk.count


@pytest.mark.parametrize("step", [3, 2], ids=["next-step", "same-step"])
@pytest.mark.parametrize("dead", [False, True], ids=["failed", "killed"])
def test_a_save_that_ends_at_any_point_leaves_a_loadable_checkpoint(tmp_path, dead, step):
    total = count_changes(tmp_path / "whole", step)
    assert total > 12  # a folder, six files, two renames, and an older checkpoint's files
    for point in range(1, total + 1):
        folder = tmp_path / str(point)
        made = saved(folder, 1, 2)
        with Disk(folder, point, dead), pytest.raises(Killed):
            save_checkpoint(folder, made, {"step": step})
        there = list_checkpoints(folder)
        assert "step-00000001" in names(folder) or there[-1].name == "step-00000003"
        assert {"step-00000002", "step-00000002.2", "step-00000003"} & set(names(folder))
        for path in there:
            load_checkpoint(path, network())
        save_checkpoint(folder, made, {"step": 4})
        assert len(list(folder.iterdir())) == 2, f"leftovers of point {point}"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("write", ["write_bytes", "write_text"])
def test_a_failed_write_is_an_oserror_and_leaves_nothing_behind(tmp_path, monkeypatch, write, code):
    made = saved(tmp_path, 1)
    before = {path: path.read_bytes() for path in (tmp_path / "step-00000001").iterdir()}

    def full(self, data, *args, **kwargs):
        self.open("wb").close()
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(Path, write, full)
        with pytest.raises(OSError, match=os.strerror(code)):
            save_checkpoint(tmp_path, made, {"step": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    assert {path: path.read_bytes() for path in (tmp_path / "step-00000001").iterdir()} == before


@pytest.mark.parametrize(("width", "optimizer"), [(64, sgd()), (16, adam())], ids=["weights", "optimizer"])
def test_a_disk_that_really_takes_no_more_is_an_oserror(tmp_path, width, optimizer):
    made = network(width)
    made.configure(optimizer, "constant", 20)
    made.step(X, Y)
    with file_limit(4096), pytest.raises(OSError, match="File too large"):
        save_checkpoint(tmp_path, made, {"step": 1})
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_removed_fails_no_checkpoint_and_hides_no_error(tmp_path, monkeypatch):
    def stuck(path, ignore_errors=False):
        if not ignore_errors:
            raise PermissionError(f"{path} cannot be removed")

    def full(*_):
        raise OSError("the disk is full")

    monkeypatch.setattr(shutil, "rmtree", stuck)
    (tmp_path / ".partial-left-by-a-kill").mkdir()
    made = saved(tmp_path, 1, 2, 3)
    assert names(tmp_path) == ["step-00000002", "step-00000003"]
    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="the disk is full"):
        save_checkpoint(tmp_path, made, {"step": 4})
    assert names(tmp_path) == ["step-00000002", "step-00000003"]


# --- damaged files


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def garbage(file: Path) -> None:
    file.write_bytes(bytes(range(256)) * 4)


def empty(file: Path) -> None:
    file.write_bytes(b"")


def remove(file: Path) -> None:
    file.unlink()


@pytest.mark.parametrize("damage", [truncate, garbage, empty, remove])
@pytest.mark.parametrize("file", ["block-0.safetensors", "block-1.optimizer", "state.json"])
def test_a_damaged_file_is_named_with_the_older_checkpoint_and_changes_nothing(tmp_path, file, damage):
    saved(tmp_path, 1, 2)
    path = list_checkpoints(tmp_path)[-1]
    damage(path / file)
    fresh = network()
    before = {name: tensor.clone() for name, tensor in fresh.state_dict().items()}
    with pytest.raises(InputError, match=rf"{path.name}.*{file}.*--checkpoint step-00000001"):
        load_checkpoint(path, fresh)
    assert equal(dict(fresh.state_dict()), before)
    load_checkpoint(list_checkpoints(tmp_path)[0], fresh)


@pytest.mark.parametrize("content", ["{}", "[]", '{"units": 3, "step": 2}', '{"units": [1, 2], "step": 2}', "null"])
def test_a_state_that_is_json_but_no_state_is_damaged(tmp_path, content):
    saved(tmp_path, 1, 2)
    path = list_checkpoints(tmp_path)[-1]
    (path / "state.json").write_text(content)
    with pytest.raises(InputError, match=r"state\.json.*--checkpoint step-00000001"):
        load_checkpoint(path, network())


@pytest.mark.parametrize("kind", ["safetensors", "optimizer"])
def test_whole_files_in_each_others_place_are_damage(tmp_path, kind):
    saved(tmp_path, 1, 2)
    path = list_checkpoints(tmp_path)[-1]
    if kind == "safetensors":
        shutil.copy(path / "block-1.safetensors", path / "block-0.safetensors")
    else:
        torch.save([1, 2], path / "block-0.optimizer")
    with pytest.raises(InputError, match=rf"block-0\.{kind}"):
        load_checkpoint(path, network())


def test_without_an_older_checkpoint_the_message_says_so(tmp_path):
    saved(tmp_path, 1)
    empty(tmp_path / "step-00000001" / "block-0.safetensors")
    with pytest.raises(InputError, match="no older one"):
        load_checkpoint(tmp_path / "step-00000001", network())


def test_another_architecture_is_named_by_block_and_tensor(tmp_path):
    path = save_checkpoint(tmp_path, network(), {"step": 0})
    with pytest.raises(
        InputError, match=r"another architecture: block 1, '.*' is .*4.* there and .*5.* in the network"
    ):
        load_checkpoint(path, network(width=5))
    with pytest.raises(InputError, match="holds 2 blocks, the network has 3"):
        load_checkpoint(path, network(blocks=3))
    with pytest.raises(InputError, match=r"'local\.readout.*' is absent there"):
        load_checkpoint(path, network(readout=1))


def test_a_checkpoint_holds_no_code(tmp_path):
    path = save_checkpoint(tmp_path, network(steps=1), {"step": 1})
    for file in [*path.glob("*.optimizer"), path / "rng.pt"]:
        torch.load(file, weights_only=True)
    assert json.loads((path / "state.json").read_text())["step"] == 1


def test_the_random_state_of_a_users_own_code_goes_on_where_it_was(tmp_path):
    with torch.random.fork_rng():
        path = save_checkpoint(tmp_path, network(steps=1), {"step": 1})
        wanted = torch.rand(3)
        load_checkpoint(path, network())
        assert torch.equal(torch.rand(3), wanted)
