"""Oracle: what was saved, or nothing. A checkpoint whose files are not what was written is refused, never loaded."""

import hashlib
import json
import logging
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import xxhash
from run_helpers import equal
from safetensors.torch import load_file, save_file
from test_checkpoint import network, saved, states

from blocklocal._common.errors import InputError
from blocklocal.block.optim import adam
from blocklocal.runs.checkpoints import find_checkpoint
from blocklocal.training.checkpoint import load_checkpoint, save_checkpoint
from blocklocal.training.checkpoint_folder import list_checkpoints

FILES = (
    "block-0.safetensors", "block-1.safetensors", "block-0.moments", "block-1.moments", "block-0.optimizer",
    "block-1.optimizer", "rng.pt", "state.json",
)  # fmt: skip
FLIPS = 40  # per file


@pytest.fixture
def newest(tmp_path: Path) -> Path:
    saved(tmp_path, 1, 2)
    return list_checkpoints(tmp_path)[-1]


def refused(path: Path, words: str) -> None:
    """Loading it is an InputError that names the older checkpoint, and changes nothing."""
    fresh = network()
    before, drawn = [json.dumps(str(state)) for state in states(fresh)], torch.get_rng_state()
    with pytest.raises(InputError, match=rf"{path.name}.*{words}.*--checkpoint step-00000001"):
        load_checkpoint(path, fresh)
    assert [json.dumps(str(state)) for state in states(fresh)] == before
    assert torch.equal(torch.get_rng_state(), drawn)


def older_version(path: Path) -> Path:
    """The checkpoint as a version without checksums wrote it."""
    (path / "checksums.json").unlink()
    one_file(path)
    state = json.loads((path / "state.json").read_text())
    state["units"] = [{name: kind["shape"] for name, kind in unit.items()} for unit in state["units"]]
    (path / "state.json").write_text(json.dumps(state))
    return path


def one_file(path: Path) -> None:
    """Moments in the file of the optimiser, as older versions wrote them."""
    for file in path.glob("*.moments"):
        learner, moments = torch.load(file.with_suffix(".optimizer"), weights_only=True), load_file(file)
        for place in learner.pop("moments"):
            index, name = place.split("/")
            learner["optimizer"]["state"][int(index)][name] = moments[place]
        torch.save(learner, file.with_suffix(".optimizer"))
        file.unlink()


# --- checksums


def test_every_file_has_its_size_and_its_sum(newest):
    sums = json.loads((newest / "checksums.json").read_text())
    assert sorted(sums) == sorted(file.name for file in newest.iterdir() if file.name != "checksums.json")
    for name, noted in sums.items():
        content = (newest / name).read_bytes()
        assert noted == {"bytes": len(content), "xxh128": xxhash.xxh128(content).hexdigest()}


def test_a_checkpoint_of_a_version_with_sha256_is_loaded_and_damage_is_seen(newest):
    one_file(newest)
    sums = {file.name: file.read_bytes() for file in newest.iterdir() if file.name != "checksums.json"}
    older = {name: {"bytes": len(c), "sha256": hashlib.sha256(c).hexdigest()} for name, c in sums.items()}
    (newest / "checksums.json").write_text(json.dumps(older))
    made, fresh = saved(newest.parent / "again", 1, 2), network()
    load_checkpoint(newest, fresh)
    assert equal(states(fresh), states(made))
    for name in sums:
        (newest / name).write_bytes(sums[name][:-1] + bytes([sums[name][-1] ^ 1]))
        refused(newest, f"{name}.*the checksum differs")
        (newest / name).write_bytes(sums[name])


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_anywhere_is_seen(newest, name):
    draw, content = random.Random(name), (newest / name).read_bytes()
    fresh = network()
    before = {key: tensor.clone() for key, tensor in fresh.state_dict().items()}
    for _ in range(FLIPS):
        changed = bytearray(content)
        changed[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        (newest / name).write_bytes(changed)
        with pytest.raises(InputError, match=rf"{name}.*the checksum differs.*--checkpoint step-00000001"):
            load_checkpoint(newest, fresh)
    assert equal(dict(fresh.state_dict()), before)
    (newest / name).write_bytes(content)
    load_checkpoint(newest, fresh)


def test_a_flipped_bit_in_the_checksums_is_no_other_checkpoint(newest):
    draw, content = random.Random(1), (newest / "checksums.json").read_bytes()
    loaded = 0
    for _ in range(200):
        changed = bytearray(content)
        changed[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        (newest / "checksums.json").write_bytes(changed)
        fresh = network()
        try:
            load_checkpoint(newest, fresh)
        except InputError:
            continue
        loaded += 1  # white space between the values
        wanted = load_file(newest / "block-0.safetensors")
        assert all(torch.equal(wanted[key], tensor) for key, tensor in fresh.learners[0].state_dict().items())
    assert loaded < 100


@pytest.mark.parametrize("size", [0, 1, -1])
def test_a_file_of_another_length_is_seen(newest, size):
    file = newest / "block-1.optimizer"
    content = file.read_bytes()
    file.write_bytes(content[:size] if size <= 0 else content + b"\0")
    refused(newest, "block-1.optimizer")


def test_a_file_that_is_not_listed_and_a_list_that_is_missing_are_damage(newest):
    sums = json.loads((newest / "checksums.json").read_text())
    del sums["rng.pt"]
    (newest / "checksums.json").write_text(json.dumps(sums))
    refused(newest, r"rng\.pt: checksums\.json does not list it")
    (newest / "checksums.json").unlink()
    refused(newest, r"checksums\.json: it is missing")


@pytest.mark.parametrize("name", [*FILES, "checksums.json"])
def test_a_folder_or_a_pipe_in_the_place_of_a_file_is_damage(newest, name):
    (newest / name).unlink()
    (newest / name).mkdir()
    if name != "state.json":
        refused(newest, name)
        (newest / name).rmdir()
        os.mkfifo(newest / name)
        refused(newest, name)
    else:
        assert list_checkpoints(newest.parent)[-1].name == "step-00000001"


# --- checkpoints of older versions


def test_a_checkpoint_without_checksums_is_loaded_with_a_warning(newest, caplog):
    older_version(newest)
    made, fresh = saved(newest.parent / "again", 1, 2), network()
    with caplog.at_level(logging.WARNING, "blocklocal"):
        load_checkpoint(newest, fresh)
    assert equal(states(fresh), states(made))
    assert "has no checksums" in caplog.text


def change_tensor(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        tensors = load_file(path / "block-0.safetensors")
        key = next(key for key in tensors if name in key)
        save_file({**tensors, key: change(tensors[key])}, path / "block-0.safetensors")

    return edit


def change_learner(change: Callable[[dict], Any], file: str = "block-0.optimizer") -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        learner = torch.load(path / file, weights_only=True)
        change(learner)
        torch.save(learner, path / file)

    return edit


def buffer(learner: dict) -> dict:
    return learner["optimizer"]["state"][0]


EDITS: dict[str, tuple[Callable[[Path], None], str]] = {
    "dtype": (change_tensor("weight", lambda t: t.double()), "other tensors"),
    "shape": (change_tensor("weight", lambda t: t.flatten()), "other tensors"),
    "nan": (change_tensor("weight", lambda t: t.index_fill(0, torch.tensor([0]), float("nan"))), "is not finite"),
    "infinite": (change_tensor("bias", lambda t: t.index_fill(0, torch.tensor([0]), float("inf"))), "is not finite"),
    "momentum shape": (change_learner(lambda s: buffer(s).update(momentum_buffer=torch.zeros(1))), "momentum_buffer"),
    "momentum dtype": (
        change_learner(lambda s: buffer(s).update(momentum_buffer=buffer(s)["momentum_buffer"].double())),
        "momentum_buffer of parameter 0 is .*float64",
    ),
    "momentum text": (change_learner(lambda s: buffer(s).update(momentum_buffer="x")), "is no tensor"),
    "other names": (change_learner(lambda s: buffer(s).update(exp_avg=torch.zeros(1))), "keeps momentum_buffer, exp"),
    "parameter": (change_learner(lambda s: s["optimizer"]["state"].update({99: {}})), "no parameter 99"),
    "parameters": (change_learner(lambda s: s["optimizer"]["param_groups"][0].update(params=[0])), "other|params"),
    "groups": (change_learner(lambda s: s["optimizer"].update(param_groups=[])), "other groups"),
    "lr": (change_learner(lambda s: s["optimizer"]["param_groups"][0].update(lr="fast")), "lr is 'fast'"),
    "lr nan": (change_learner(lambda s: s["optimizer"]["param_groups"][0].update(lr=float("nan"))), "lr is 'nan'"),
    "group key": (change_learner(lambda s: s["optimizer"]["param_groups"][0].pop("lr")), "lr is missing"),
    "no optimizer": (change_learner(lambda s: s.update(optimizer=None)), "optimizer is absent"),
    "no schedule": (change_learner(lambda s: s.update(schedule=None)), "schedule is absent"),
    "schedule key": (change_learner(lambda s: s["schedule"].pop("last_epoch")), "last_epoch is missing"),
    "schedule extra": (change_learner(lambda s: s["schedule"].update(step=3)), "step is unknown"),
    "schedule type": (change_learner(lambda s: s["schedule"].update(last_epoch="2")), "last_epoch is '2'"),
    "schedule back": (change_learner(lambda s: s["schedule"].update(last_epoch=-2)), "last_epoch is negative"),
    "schedule lists": (change_learner(lambda s: s["schedule"].update(base_lrs=[])), "base_lrs"),
    "random size": (change_learner(lambda s: s.update(cpu=s["cpu"][:-1]), "rng.pt"), "rng.pt"),
    "random type": (change_learner(lambda s: s.update(cpu=s["cpu"].float()), "rng.pt"), "rng.pt"),
    "random text": (change_learner(lambda s: s.update(cpu="x"), "rng.pt"), "rng.pt"),
}


@pytest.mark.parametrize("name", EDITS)
def test_without_checksums_too_what_cannot_be_of_this_network_is_refused(newest, name):
    edit, words = EDITS[name]
    edit(older_version(newest))
    refused(newest, words)


def test_states_of_another_optimizer_are_refused(newest):
    fresh = network()
    fresh.configure(adam(), "one-cycle", 20)
    with pytest.raises(InputError, match=r"block-0\.optimizer"):
        load_checkpoint(newest, fresh)


POSITION = {
    "step": 2,
    "epoch": 0,
    "step_in_epoch": 2,
    "steps_per_epoch": 3,
    "seconds": 0.5,
    "images": 16,
    "records": [],
    "tally": {"steps": 2, "sums": {"loss": [1.0, 2.0], "right/1": [3.0, 16.0], "part/0/evidence": 1.0}},
    "start": [0.1, 0.0, 0],
}
RECORD = {
    "epoch": 1,
    "loss": [1.0, None],
    "train_top1": [1.0, 2.0],
    "validation_top1": [None, None],
    "message": [0.1, None],
}


@pytest.mark.parametrize(
    "change",
    [
        {"step": -1},
        {"epoch": None},
        {"step_in_epoch": 4},
        {"step_in_epoch": 0},
        {"seconds": -1.0},
        {"seconds": "long"},
        {"images": 1.5},
        {"tally": None},
        {"tally": {"steps": 0, "sums": {"loss": [1.0, 2.0]}}},
        {"tally": {"steps": 1, "sums": {}}},
        {"tally": {"steps": 1, "sums": {"loss": [1.0]}}},
        {"tally": {"steps": 1, "sums": {"loss": 1.0}}},
        {"tally": {"steps": 1, "sums": {"loss": [1.0, 2.0], "right/2": [1.0, 2.0]}}},
        {"tally": {"steps": 1, "sums": {"loss": [1.0, 2.0], "right/x": [1.0, 2.0]}}},
        {"tally": {"steps": 1, "sums": {"loss": [1.0, 2.0], "right/0": [1.0]}}},
        {"tally": {"steps": 1, "sums": {"loss": [1.0, 2.0], "part/0": 1.0}}},
        {"start": [0.1, 0.0]},
        {"start": None},
        {"records": [{"epoch": 1, "loss": [1.0]}]},
        {"records": [{**RECORD, "loss": [1.0], "train_top1": [1.0], "validation_top1": [1.0], "message": [1.0]}]},
        {"records": [{**RECORD, "message": [0.1]}]},
        {"records": 3},
    ],
)
def test_a_position_in_training_that_cannot_be_is_damage(tmp_path, change):
    made = network(steps=2)
    good = save_checkpoint(tmp_path / "good", made, {**POSITION, "records": [RECORD]})
    assert load_checkpoint(good, network())["records"] == [RECORD]
    path = save_checkpoint(tmp_path, made, {**POSITION, **change})
    with pytest.raises(InputError, match=r"state\.json"):
        load_checkpoint(path, network())


def test_a_part_of_a_position_is_none(tmp_path):
    path = save_checkpoint(tmp_path, network(steps=2), {"step": 2, "epoch": 1})
    with pytest.raises(InputError, match=r"state\.json.*step_in_epoch is missing"):
        load_checkpoint(path, network())


# --- folders of checkpoints


def test_a_folder_that_cannot_be_looked_into_is_no_empty_one(tmp_path, monkeypatch):
    saved(tmp_path / "checkpoints", 1)

    def refuse(self: Path) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(InputError, match="cannot be listed"):
        find_checkpoint(tmp_path, required=False)


@pytest.mark.parametrize("make", [lambda p: p.write_text(""), lambda p: p.symlink_to("nowhere"), os.mkfifo])
def test_what_is_no_folder_of_checkpoints_is_no_empty_one(tmp_path, make):
    make(tmp_path / "checkpoints")
    with pytest.raises(InputError, match="cannot be listed"):
        find_checkpoint(tmp_path, required=False)
    assert find_checkpoint(tmp_path / "elsewhere", required=False) is None
