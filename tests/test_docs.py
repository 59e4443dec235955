"""The documentation's examples run: python blocks as they stand, console blocks as commands, page by page."""

import re
import runpy
import shlex
import sys
from pathlib import Path

import forking
import pytest
import torch

from blocklocal.cli import main
from blocklocal.cli.main import COMMANDS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(python|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The image folder that the pages speak of, below the working directory."""
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    draw = torch.Generator().manual_seed(0)
    for split, count in (("train", 12), ("test", 4)):
        for brightness, name in ((60, "cat"), (160, "dog")):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = torch.randint(brightness, brightness + 60, (20, 24, 3), generator=draw).to(torch.uint8)
                Image.fromarray(pixels.numpy()).save(folder / f"{i}.png")
    return tmp_path


def run_command(line: str) -> None:
    program, *arguments = shlex.split(line)
    assert program == "blocklocal", f"only blocklocal commands are run from the pages, not {line!r}"
    if "--processes" in arguments:
        done = forking.run([sys.executable, "-m", "blocklocal", *arguments], capture_output=True, text=True)
        assert done.returncode == 0, f"{line}: {done.stderr}"
        return
    assert main(arguments) == 0, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_example_of_a_page_runs(page: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict = {"__name__": "__page__"}
    for kind, text in BLOCK.findall(page.read_text()):
        if kind == "python":
            exec(compile(text, str(page), "exec"), names)
            continue
        for line in filter(None, (line.strip() for line in text.splitlines())):
            run_command(line)


def test_the_pages_hold_examples() -> None:
    found = [kind for page in PAGES for kind, _ in BLOCK.findall(page.read_text())]
    assert found.count("python") >= 5
    assert found.count("console") >= 2


def test_the_page_of_commands_shows_what_the_program_prints(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "command-line.md").read_text()
    assert main(["--help"]) == 0
    assert capsys.readouterr().out in page
    assert set(re.findall(r"^<!-- help: (\w+) -->$", page, re.MULTILINE)) == set(COMMANDS)


def test_the_picture_of_a_step_can_be_drawn_again(tmp_path: Path) -> None:
    path = tmp_path / "step.svg"
    assert runpy.run_path(str(ROOT / "docs" / "draw_step.py"))["main"]([str(path)]) == 0
    drawn, kept = path.read_text(), (ROOT / "docs" / "step.svg").read_text()
    size, colour = re.compile(r'viewBox="([^"]*)"'), re.compile(r"(?:fill|stroke): (#[0-9a-f]{6})")
    assert size.findall(drawn) == size.findall(kept)
    assert set(colour.findall(drawn)) == set(colour.findall(kept))
    assert drawn.count("<path") == kept.count("<path")
