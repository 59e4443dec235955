"""Oracle: the undisturbed run. A run goes on exactly, or says what is different and stops."""

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from data_files import picture
from parallel_helpers import command, python, started
from run_helpers import (
    assert_same_run,
    cli,
    flags,
    metrics,
    newest,
    stopped,
    stopping,
    tiny,
    whole,
)

from blocklocal._common.errors import InputError
from blocklocal.runs import origin
from blocklocal.runs.config import Config
from blocklocal.runs.lock import held
from blocklocal.runs.looking import load_network
from blocklocal.runs.run import resume_run, start_run

pytestmark = pytest.mark.usefixtures("no_reports")


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def photos(folder: Path, each: int = 12) -> Path:
    """Two splits of two classes, no two pictures alike."""
    shades = iter(range(4 * each))
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (folder / split / name).mkdir(parents=True)
            for i in range(each):
                picture(next(shades), (8, 8)).save(folder / split / name / f"{i}.png")
    return folder


def of_photos(folder: Path, **changes) -> Config:
    small = {"train_size": None, "test_size": None, "validation": 4, "batch_size": 5}
    return tiny(data=str(folder), **{**small, **changes})


def edit(folder: Path, **changes) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


# --- threads


def test_a_resumed_run_takes_the_number_of_threads_it_was_started_with(tmp_path):
    torch.set_num_threads(2)
    run = stopped(tiny(threads=None), tmp_path / "run")
    torch.set_num_threads(1)
    row = resume_run(run, quiet=True)
    assert (row["threads"], torch.get_num_threads()) == (2, 2)


# --- settings


@pytest.mark.parametrize(
    "change",
    [
        {"clip": 0.5},
        {"schedule": "constant"},
        {"label_smoothing": 0.1},
        {"lr": 0.01},
        {"batch_size": 30},
        {"seed": 1},
        {"threads": 2},
        {"epochs": 3},
        {"augment": "flip"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_an_edited_setting_is_named_and_refused(tmp_path, change):
    run = stopped(tiny(), tmp_path / "run")
    before = newest(run).name
    ((name, value),) = change.items()
    edit(run, **change)
    with pytest.raises(InputError, match=f"{name}: .* then, {value} now.*--accept-changes"):
        resume_run(run, quiet=True)
    assert newest(run).name == before


def test_an_accepted_change_is_recorded_and_not_asked_again(tmp_path):
    run = stopped(tiny(), tmp_path / "run")
    edit(run, clip=0.5)
    with stopping(1):
        resume_run(run, quiet=True, accept_changes=True)
    (record,) = [line for line in metrics(run) if line["event"] == "resumed"]
    assert record["changes"] == ["clip: None then, 0.5 now"]
    assert resume_run(run, quiet=True)["finished"]


def test_other_versions_of_torch_and_blocklocal_are_named(tmp_path):
    run = stopped(tiny(), tmp_path / "run")
    file = run / "origin.json"
    saved = json.loads(file.read_text())
    saved["versions"] |= {"torch": "1.0", "blocklocal": "0.0.1"}
    file.write_text(json.dumps(saved))
    with pytest.raises(InputError, match=r"blocklocal: 0\.0\.1 then.*torch: 1\.0 then"):
        resume_run(run, quiet=True)


def test_a_run_of_a_version_without_origin_goes_on_with_a_warning(tmp_path, caplog):
    run = stopped(tiny(), tmp_path / "run")
    (run / "origin.json").unlink()
    assert resume_run(run, quiet=True)["finished"]
    assert "of an older version" in caplog.text


def test_accept_changes_without_resume_is_refused(tmp_path):
    assert cli("train", *flags(), "--accept-changes", "--output", tmp_path / "run").status == 2


# --- data


@pytest.mark.parametrize(
    ("split", "words"), [("train", "is not what the run .* was started on"), ("test", "labels of the test split have")]
)
def test_swapped_labels_are_refused(tmp_path, split, words):
    data = photos(tmp_path / "photos")
    run = stopped(of_photos(data), tmp_path / "run")
    (data / split / "cat").rename(data / split / "x")
    (data / split / "dog").rename(data / split / "cat")
    (data / split / "x").rename(data / split / "dog")
    with pytest.raises(InputError, match=words):
        resume_run(run, quiet=True)


def test_a_replaced_test_picture_is_refused(tmp_path):
    data = photos(tmp_path / "photos")
    run = stopped(of_photos(data), tmp_path / "run")
    picture(99, (8, 8)).save(data / "test" / "cat" / "0.png")
    with pytest.raises(InputError, match="of the test split have changed"):
        resume_run(run, quiet=True)
    assert not (run / "summary.json").exists()


def test_a_relative_data_folder_is_found_from_another_working_folder(tmp_path, monkeypatch):
    photos(tmp_path / "here" / "photos")
    monkeypatch.chdir(tmp_path / "here")
    config = of_photos(Path("photos"))
    run = stopped(config, tmp_path / "run")
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "there")
    resume_run(run, quiet=True)
    monkeypatch.chdir(tmp_path / "here")
    assert_same_run(run, whole(config, tmp_path / "whole"))


def test_data_that_moved_with_the_working_folder_is_found_there(tmp_path, monkeypatch):
    photos(tmp_path / "old" / "photos")
    monkeypatch.chdir(tmp_path / "old")
    run = stopped(of_photos(Path("photos")), Path("run").absolute())
    monkeypatch.chdir(tmp_path)
    shutil.move(tmp_path / "old", tmp_path / "new")
    monkeypatch.chdir(tmp_path / "new")
    assert resume_run(tmp_path / "new" / run.name, quiet=True)["finished"]


# --- one at a time

HOLD = """
import sys, time
from pathlib import Path
from blocklocal.runs.lock import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(100)
"""


def test_a_run_that_another_process_trains_is_refused_and_left_alone(tmp_path):
    run = stopped(tiny(), tmp_path / "run")
    with started([python(HOLD, run)]) as (other,):
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
        said = cli("train", "--resume", run, "--quiet")
        assert said.status == 2
        assert "is being trained by another process" in said.text
        assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
        other.kill()
    assert cli("train", "--resume", run, "--quiet").status == 0  # the lock of a killed process is gone


def test_a_run_in_progress_holds_its_lock(tmp_path):
    def refused() -> bool:
        with pytest.raises(InputError, match="another process"), held(tmp_path / "run"):
            pass
        return False

    start_run(tiny(epochs=1), tmp_path / "run", quiet=True, should_stop=refused)


# --- a folder that is gone


def test_a_run_folder_that_is_removed_in_mid_run_is_noticed_at_the_next_write(tmp_path):
    steps = []

    def remove() -> bool:
        steps.append(1)
        if len(steps) == 2:
            shutil.rmtree(tmp_path / "run")
        return False

    with pytest.raises(OSError, match="No such file"):
        start_run(tiny(), tmp_path / "run", quiet=True, should_stop=remove)
    assert len(steps) == 3  # of the first epoch
    assert not (tmp_path / "run").exists()


def test_processes_do_not_make_a_run_folder_again_that_is_gone(tmp_path):
    run, words = tmp_path / "run", [*flags(epochs=100_000, train_size=600), "--processes", "2", "--quiet"]
    with started([command("train", *words, "--output", run)], [tmp_path]) as (other,):
        while not (run / "checkpoints").exists() and other.poll() is None:
            time.sleep(0.05)
        run.rename(tmp_path / "gone")
        _, said = other.communicate(timeout=60)
        assert other.returncode == 1, said
        assert "No such file or directory" in said
        assert not run.exists()


# --- what is looked at


def test_a_run_with_edited_settings_is_looked_at_with_a_warning(tmp_path, caplog):
    run = whole(tiny(), tmp_path / "run")
    load_network(run)
    assert "not looked at as it was trained" not in caplog.text
    edit(run, temperature=5.0)
    load_network(run)
    assert "temperature: 1.0 then, 5.0 now" in caplog.text


# --- differences


def test_nothing_differs_from_itself(tmp_path):
    run = stopped(tiny(), tmp_path / "run")
    saved = origin.read_origin(run)
    assert saved is not None
    assert origin.differences(saved, saved) == []


def test_a_setting_that_an_older_version_did_not_have_was_what_it_usually_is():
    def made(**settings) -> origin.Origin:
        return origin.Origin({"threads": 1} | settings, {}, threads=1, device="cpu", replicas=1, versions={}, folder="")

    assert origin.differences(made(), made(mix="")) == []
    assert origin.differences(made(), made(mix="mixup")) == ["mix:  then, mixup now"]
