"""Oracle: InputError or success. Whatever is done to the files of a run folder, nothing that reads them ends otherwise.

The edits are drawn from what was found in reports and by hand: wrong types and shapes, flipped bits, missing and
unknown keys, numbers without end, deep nesting, halves of letters, torn lines, a folder or a pipe in a file's place.
"""

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from run_helpers import tiny, whole, without_reports
from timeline_helpers import write_pipeline

from blocklocal._common.errors import InputError
from blocklocal.report import write_comparison, write_report
from blocklocal.runs.compare import finish_run
from blocklocal.runs.config import load_config
from blocklocal.runs.looking import load_network
from blocklocal.runs.run import resume_run
from blocklocal.timeline.trace import write_trace

CHECKPOINT = ("state.json", "checksums.json", "rng.pt", "block-0.safetensors", "block-0.optimizer")
RUN = ("config.json", "data.json", "origin.json", "cuts.json", "metrics.jsonl")
RUN += ("summary.json", "examples.json", "confusion.json")
TIMELINE = tuple(f"timeline/process-{rank}.jsonl" for rank in range(2))
# As JSON text: some of it no library writes. Strings name nothing that could be there, or be asked for on a network.
VALUES = (
    *("null", "true", "-1", "0", "1", "2", "1.5", "-0.0", "1e12", "1e40", "-1e308", "1e308", "1e999", "1e-320"),
    *("1000000000", str(10**30), "7" * 5000, "NaN", "Infinity", '""', '"x"', '"café"', '"a\\nb"', '"$x$<b>"'),
    *('"\\udce9"', '"\\ud800"', '"\\u0000"', '"' + "y" * 300 + '"', '"' + "z" * 100_000 + '"'),
    *("[]", "{}", "[1]", '["x"]', "[null]", '{"x": 1}', "[[1,2],[3]]", "[[[[[[1]]]]]]", '{"x": {"y": [1]}}'),
    *("[" * 3000 + "]" * 3000, "[" + "0," * 20_000 + "0]"),
)
Call = Callable[[Path], object]


# --- what reads a run folder


def opened(folder: Path) -> None:
    load_network(folder / "run", device="cpu")


def resumed(folder: Path) -> None:
    (folder / "run" / "summary.json").unlink(missing_ok=True)
    with without_reports():
        resume_run(folder / "run", quiet=True)


def resumed_from_older(folder: Path) -> None:
    if (folder / "run" / "summary.json").is_file():
        (folder / "run" / "summary.json").unlink()
    with without_reports():
        resume_run(folder / "run", quiet=True, checkpoint="step-00000003")


def finished(folder: Path) -> None:
    finish_run(tiny(balance="time"), folder / "run", quiet=True)


CALLS: dict[str, tuple[Call, ...]] = {
    "config.json": (lambda f: load_config(f / "run"), opened, resumed, finished, lambda f: write_report(f / "run")),
    "data.json": (opened, resumed),
    "origin.json": (opened, resumed, finished),
    "cuts.json": (opened, resumed),
    "metrics.jsonl": (resumed, lambda f: write_report(f / "run")),
    "summary.json": (finished, lambda f: write_report(f / "run")),
    "examples.json": (lambda f: write_report(f / "run"),),
    "confusion.json": (lambda f: write_report(f / "run"),),
    "compare.json": (write_comparison, lambda f: write_report(f / "run")),
    **dict.fromkeys(TIMELINE, (lambda f: write_trace(f / "run"), lambda f: write_report(f / "run"))),
    **dict.fromkeys(CHECKPOINT, (opened, resumed, resumed_from_older)),
}


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A comparison of one finished run, with every kind of file in it."""
    folder = tmp_path_factory.mktemp("fuzz")
    run = whole(tiny(balance="time"), folder / "run")
    row = json.loads((run / "summary.json").read_text())
    (folder / "compare.json").write_text(json.dumps([{**row, "run": "run"}]))
    write_pipeline(run, [[0], [1]], range(4))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


# --- what is done to a file


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """The way to every value within a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(way for key, each in inner for way in places(each, (*path, key)))]


def changed(value: Any, way: tuple, change: Callable[[Any, Any], None]) -> Any:
    """`change(container, key)` done where `way` leads; a value by itself is in a list of one."""
    holder = [value]
    container, key = holder, 0
    for step in way:
        container, key = container[key], step
    change(container, key)
    return holder[0] if holder else None


def edit_json(text: str, draw: random.Random) -> str:
    """One value within it replaced, removed, renamed or wrapped."""
    value = json.loads(text)
    way, raw, kind = draw.choice(places(value)), draw.choice(VALUES), draw.randrange(10)

    def change(container: Any, key: Any) -> None:
        if kind < 7:
            container[key] = "@HERE@"
        elif kind == 7:
            del container[key]
        elif kind == 8 and isinstance(container, dict):
            container[f"{key}x"] = container.pop(key)
        else:
            container[key] = [container[key]]

    return json.dumps(changed(value, way, change)).replace('"@HERE@"', raw)


def edit_text(file: Path, draw: random.Random) -> None:
    if file.suffix == ".jsonl":
        lines = file.read_text().splitlines()
        k = draw.randrange(len(lines))
        lines[k] = edit_json(lines[k], draw)
        if draw.random() < 0.2:
            lines.insert(draw.randrange(len(lines) + 1), draw.choice(lines)[: draw.randrange(40)])
        if draw.random() < 0.2:
            draw.shuffle(lines)
        file.write_text("\n".join(lines) + draw.choice(("\n", "")))
    else:
        file.write_text(edit_json(file.read_text(), draw))


def edit_bytes(file: Path, draw: random.Random) -> None:
    content = bytearray(file.read_bytes())
    kind = draw.randrange(6)
    if kind == 0:
        del content[draw.randrange(len(content)) :]
    elif kind == 1:
        content = bytearray(draw.randbytes(draw.randrange(300)))
    elif kind == 2:
        content += content[: draw.randrange(100)]
    else:
        for _ in range(draw.choice((1, 1, 3))):
            content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    file.write_bytes(content)


def replace(file: Path, draw: random.Random) -> None:
    """Something else in its place."""
    file.unlink()
    kind = draw.randrange(5)
    if kind == 0:
        file.mkdir()
    elif kind == 1:
        os.mkfifo(file)
    elif kind == 2:
        file.symlink_to("/dev/zero")
    elif kind == 3:
        file.symlink_to(file.name)  # itself


def forget_checksums(checkpoint: Path) -> None:
    """As an older version wrote it."""
    (checkpoint / "checksums.json").unlink()
    state = json.loads((checkpoint / "state.json").read_text())
    state["units"] = [{name: kind["shape"] for name, kind in unit.items()} for unit in state["units"]]
    (checkpoint / "state.json").write_text(json.dumps(state))


def tried(source: Path, folder: Path, number: int) -> None:
    """One edit of one file, and one reader of it."""
    draw = random.Random(number)
    shutil.copytree(source, folder)
    name = draw.choice((*RUN, "compare.json", *TIMELINE, *CHECKPOINT))
    if name in CHECKPOINT:
        checkpoint = folder / "run" / "checkpoints" / draw.choice(("step-00000003", "step-00000006"))
        if name != "checksums.json" and draw.random() < 0.5:
            forget_checksums(checkpoint)
        file = checkpoint / name
    else:
        file = folder / name if name == "compare.json" else folder / "run" / name
    edits = (edit_bytes, edit_bytes, replace)
    if file.suffix in (".json", ".jsonl"):
        edits = (edit_text, edit_text, edit_text, edit_bytes, replace)
    draw.choice(edits)(file, draw)
    call = draw.choice(CALLS[name])
    try:
        call(folder)
    except InputError as error:
        if len(str(error)) > 3000:
            raise AssertionError(
                f"{name}, edit {number}: nobody reads a message of {len(str(error))} letters"
            ) from None
    except Exception as error:
        raise AssertionError(f"{name}, edit {number}: {type(error).__name__}: {error}") from error


def fuzz(source: Path, tmp_path: Path, count: int) -> None:
    @seed(0)
    @settings(
        max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck), print_blob=False
    )
    @given(st.integers(0, 2**32 - 1))
    def search(number: int) -> None:
        folder = tmp_path / "edited"
        shutil.rmtree(folder, ignore_errors=True)
        tried(source, folder, number)

    with torch.random.fork_rng():
        search()


def test_an_edited_run_folder_ends_in_an_input_error_or_is_read(finished_run, tmp_path):
    fuzz(finished_run, tmp_path, 60)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_thousand_edited_run_folders_end_in_an_input_error_or_are_read(finished_run, tmp_path):
    fuzz(finished_run, tmp_path, 2_000)
