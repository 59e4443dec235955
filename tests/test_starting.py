"""Python is started so that files of the working folder are not taken for its own modules."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from parallel_helpers import finished, started
from reproduce_helpers import image_sets
from run_helpers import tiny

from blocklocal._common.starting import ROOT, start_script

pytestmark = [pytest.mark.xdist_group("workers"), pytest.mark.timeout(180)]
STARTING = Path(__file__).parent.parent / "src" / "blocklocal" / "_common" / "starting.py"
NAMES = ("queue", "profile", "socket", "selectors", "signal", "test", "types", "pickle", "threading", "torch", "numpy")

# Imports what it can, tells where from.
TELL = """
import json, queue, selectors, sys, mine
with open(sys.argv[1], "w") as file:
    json.dump({"queue": queue.__file__, "mine": mine.__file__, "arguments": sys.argv[2:], "path": sys.path}, file)
"""

# Workers of a pool, as `reproduce` has them, and the tracker of their semaphore.
POOL = """
import multiprocessing, runpy, sys
from concurrent.futures import ProcessPoolExecutor

if __name__ == "__main__":
    safe_spawning = runpy.run_path(sys.argv[1])["safe_spawning"]
    context = multiprocessing.get_context("spawn")
    with safe_spawning():
        event = context.Event()
        with ProcessPoolExecutor(2, mp_context=context) as pool:
            print([pool.submit(abs, -number).result() for number in range(3)])
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with files that are named like modules, and end whoever imports them."""
    folder = tmp_path / "here"
    folder.mkdir()
    for name in NAMES:
        (folder / f"{name}.py").write_text("print('my own script')\nraise SystemExit(3)\n")
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("arguments", [[], ["--a", "b c"], [os.fsdecode(b"\xff/\xfe")]])
def test_a_script_gets_pythons_modules_and_those_of_pythonpath(here, tmp_path, arguments):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "mine.py").write_text("")
    script, told = tmp_path / "script.py", tmp_path / "told.json"
    script.write_text(TELL)
    known = {**os.environ, "PYTHONPATH": str(tmp_path / "own")}
    child = start_script(script, [str(told), *arguments], known)
    try:
        assert child.wait(60) == 0
    finally:
        child.kill()
        child.wait()
    found = json.loads(told.read_text())
    assert Path(found["queue"]).parent == Path(os.__file__).parent
    assert Path(found["mine"]).parent == tmp_path / "own"
    assert found["arguments"] == arguments
    assert not {"", ".", str(here)} & set(found["path"])
    assert str(ROOT) in found["path"]


def test_workers_of_a_pool_get_pythons_modules(here, tmp_path):
    (tmp_path / "main.py").write_text(POOL)
    # real, here and below: what is looked at is where Python finds its modules when it starts
    with started([[sys.executable, str(tmp_path / "main.py"), str(STARTING)]], real=True) as running:
        status, out, err = finished(running)[0]
    assert status == 0, err
    assert out.strip() == "[0, 1, 2]"
    assert not err


def installed(*arguments: object) -> list[str]:
    """The command as it is installed: a script elsewhere, whose folder is on the path instead of the working folder."""
    code = "import sys; sys.path.remove(''); from blocklocal.cli import main; sys.exit(main())"
    return [sys.executable, "-c", code, *map(str, arguments)]


def test_processes_of_a_run_get_pythons_modules(here, tmp_path):
    tiny(test_size=20).save(tmp_path / "settings.json")
    given = ["train", "--config", tmp_path / "settings.json", "--output", tmp_path / "run", "--processes", 2, "--quiet"]
    with started([installed(*given)], real=True) as running:
        status, out, err = finished(running)[0]
    assert status == 0, err
    assert "my own script" not in out + err


@pytest.mark.slow
def test_jobs_of_reproduce_get_pythons_modules(here, tmp_path):
    given = ["--data", image_sets(tmp_path / "sets"), "--output", tmp_path / "out", "--jobs", 2, "--size", "quick"]
    with started([installed("reproduce", "table1", *given, "--minutes", 0.05)], real=True) as running:
        _, out, err = finished(running)[0]
    assert "my own script" not in out + err
    assert "killed" not in err, err
