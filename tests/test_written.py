"""Files that the user names. Oracle: what lies in the place afterwards, its kind and its content."""

import json
import os
import stat
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
from run_helpers import assert_refused, cli, file_limit, flags

from blocklocal._common.errors import InputError
from blocklocal._common.written import check_target, signed_json, write_file

pytestmark = pytest.mark.usefixtures("no_reports")

NEW = signed_json({"a": 1})


def test_a_new_file_has_what_was_written_and_the_mode_of_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_file(tmp_path / "new.json", NEW)
    finally:
        os.umask(before)
    assert json.loads((tmp_path / "new.json").read_text())["a"] == 1
    assert stat.S_IMODE((tmp_path / "new.json").stat().st_mode) == 0o640
    assert os.listdir(tmp_path) == ["new.json"]


@pytest.mark.parametrize(
    "content", [b"my notes", b"{}", b'{"a": {"written_by": "blocklocal 1"}}', b"\x89PNG\r\n\x1a\n"]
)
def test_a_file_of_somebody_else_is_replaced_only_where_that_is_asked_for(tmp_path, content):
    file = tmp_path / "notes"
    file.write_bytes(content)
    file.chmod(0o604)
    with pytest.raises(InputError, match=r"notes exists and was not written by blocklocal: .* --overwrite"):
        write_file(file, NEW)
    assert file.read_bytes() == content
    write_file(file, NEW, overwrite=True)
    assert file.read_bytes() == NEW
    assert stat.S_IMODE(file.stat().st_mode) == 0o604


@pytest.mark.parametrize("options", [{}, {"indent": 1}, {"indent": 2}, {"ensure_ascii": False}])
def test_what_we_wrote_is_replaced_without_asking(tmp_path, options):
    write_file(tmp_path / "a.json", signed_json({"a": 0}, **options))
    write_file(tmp_path / "a.json", NEW)
    assert (tmp_path / "a.json").read_bytes() == NEW


def test_an_empty_file_holds_nothing_to_lose(tmp_path):
    (tmp_path / "made-by-mktemp").touch()
    write_file(tmp_path / "made-by-mktemp", NEW)
    assert (tmp_path / "made-by-mktemp").read_bytes() == NEW


@pytest.mark.parametrize("there", [True, False], ids=["", "dangling"])
def test_a_link_stays_and_what_it_leads_to_is_written(tmp_path, there):
    (tmp_path / "far").mkdir()
    target, link, chain = tmp_path / "far" / "target", tmp_path / "link", tmp_path / "chain"
    if there:
        target.write_bytes(signed_json({"a": 0}))
    link.symlink_to(Path("far") / "target")
    chain.symlink_to("link")
    write_file(chain, NEW)
    assert chain.is_symlink()
    assert link.is_symlink()
    assert not target.is_symlink()
    assert target.read_bytes() == NEW
    assert os.listdir(tmp_path / "far") == ["target"]


def test_a_link_to_a_file_of_somebody_else_is_no_way_around(tmp_path):
    (tmp_path / "notes").write_text("my notes")
    (tmp_path / "link").symlink_to("notes")
    with pytest.raises(InputError, match="not written by blocklocal"):
        write_file(tmp_path / "link", NEW)
    assert (tmp_path / "notes").read_text() == "my notes"


def test_a_device_stays_a_device():
    device = os.stat(os.devnull)
    for overwrite in (False, True):
        write_file(Path(os.devnull), NEW, overwrite=overwrite)
    assert stat.S_ISCHR(os.lstat(os.devnull).st_mode)
    assert os.stat(os.devnull).st_ino == device.st_ino


def test_a_device_below_a_link_stays_a_device(tmp_path):
    (tmp_path / "link").symlink_to(os.devnull)
    write_file(tmp_path / "link", NEW)
    assert (tmp_path / "link").is_symlink()
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)


def test_a_pipe_with_a_name_gets_the_content(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    write_file(tmp_path / "pipe", NEW * 10_000)
    reader.join()
    assert got == [NEW * 10_000]
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def written_to(name: str, out: object, folder: Path) -> bytes:
    """What a program that prints before and after writes to standard output under this name."""
    program = f"""
        from pathlib import Path
        from blocklocal._common.written import write_file
        print("before")
        write_file(Path({name!r}), b"written\\n")
        print("after")
    """
    run = [sys.executable, "-c", textwrap.dedent(program)]
    return subprocess.run(run, stdout=out, check=True, cwd=folder).stdout


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_standard_output_gets_all_in_order_whether_it_is_a_pipe_or_a_file(tmp_path, name):
    assert written_to(name, subprocess.PIPE, tmp_path) == b"before\nwritten\nafter\n"
    with (tmp_path / "log").open("wb") as log:
        written_to(name, log, tmp_path)
    assert (tmp_path / "log").read_bytes() == b"before\nwritten\nafter\n"
    assert os.listdir(tmp_path) == ["log"]


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="is a folder: give the name of a file in it"):
        write_file(tmp_path, NEW, overwrite=True)


def test_a_folder_that_is_not_there_is_found_out_beforehand(tmp_path):
    with pytest.raises(InputError, match="is not there: make it"):
        check_target(tmp_path / "no" / "file.json")


def test_a_full_disk_leaves_the_old_content(tmp_path):
    old = signed_json({"a": 0})
    write_file(tmp_path / "a.json", old)
    with file_limit(1000), pytest.raises(OSError, match="File too large"):
        write_file(tmp_path / "a.json", NEW * 1000)
    assert (tmp_path / "a.json").read_bytes() == old
    assert os.listdir(tmp_path) == ["a.json"]


def test_half_a_surrogate_pair_is_written_as_its_escape():
    for options in ({}, {"ensure_ascii": False}):
        assert json.loads(signed_json({"name": "caf\udce9"}, **options))["name"] == "caf\udce9"


# --- the commands


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "run"
    assert cli("train", *flags(epochs=1), "--output", folder, "--quiet").status == 0
    return folder


def test_evaluate_asks_before_the_work_and_writes_over_its_own(run, tmp_path):
    (tmp_path / "notes").write_text("my notes")
    said = cli("evaluate", run, "--json", tmp_path / "notes")
    assert_refused(said, "notes exists and was not written by blocklocal")
    assert said.out == ""
    assert (tmp_path / "notes").read_text() == "my notes"
    for more in (("--overwrite",), ()):
        assert cli("evaluate", run, "--json", tmp_path / "notes", *more).status == 0
        assert json.loads((tmp_path / "notes").read_text())["split"] == "test"
    assert cli("evaluate", run, "--json", os.devnull).status == 0
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)


SMALL = "--measure --model mlp --width 4 --blocks 2 --image-size 4 --channels 1 --batch-size 8 --repeats 1 --devices 2"


@pytest.mark.parametrize(
    ("flag", "name", "more"),
    [("--json", "x.json", ""), ("--plot", "x.png", ""), ("--plot", "x.svg", ""), ("--save-costs", "x.json", SMALL)],
)
def test_simulate_asks_before_the_work_and_writes_over_its_own(tmp_path, flag, name, more):
    more = [*more.split(), "--micro-batches", "2", "--schedules", "gpipe"]
    (tmp_path / name).write_text("my notes")
    said = cli("simulate", *more, flag, tmp_path / name)
    assert_refused(said, f"{name} exists and was not written by blocklocal")
    assert said.out == ""
    assert (tmp_path / name).read_text() == "my notes"
    for again in (("--overwrite",), ()):
        assert cli("simulate", *more, flag, tmp_path / name, *again).status == 0
        assert b"my notes" not in (tmp_path / name).read_bytes()
