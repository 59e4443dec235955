"""The examples run as a reader runs them, and the blocks have learned."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import forking
import nbclient
import nbformat
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def output_of(name: str, run: Callable = forking.run) -> str:
    ended = run([sys.executable, EXAMPLES / name], capture_output=True, text=True, timeout=110)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


CHANCE = [("own_images.py", 50), ("own_model.py", 10), ("sequences.py", 10), ("segmentation.py", 30)]


@pytest.mark.parametrize(("name", "chance"), CHANCE)
def test_an_example_ends_with_blocks_far_above_chance(name: str, chance: float) -> None:
    found = re.search(r"in percent: \[(.*)\]", output_of(name))
    assert found is not None
    assert float(found[1].split(",")[-1]) > min(2 * chance, 90)


@pytest.mark.parametrize("library", ["lightning", "accelerate"])
def test_the_example_inside_another_library_learns(library: str) -> None:
    pytest.importorskip(library, reason=f"{library} is not installed")
    found = re.search(r"in percent: \[(.*)\]", output_of(f"in_{library}.py", subprocess.run))
    assert found is not None
    assert float(found[1]) > 80


def test_the_example_of_values_ends_with_a_smaller_error_than_the_frozen_control() -> None:
    found = re.findall(r"in degrees: \[(.*)\]", output_of("regression.py"))
    own, frozen = (float(errors.split(",")[-1]) for errors in found)
    assert own < 0.8 * frozen


@pytest.mark.xdist_group("processes")
def test_the_example_of_several_processes_ends_with_the_weights_of_one() -> None:
    assert "the same weights: True" in output_of("several_processes.py", subprocess.run)


def test_the_notebook_runs_from_top_to_bottom(tmp_path: Path) -> None:
    notebook = nbformat.read(EXAMPLES / "first_steps.ipynb", as_version=4)
    nbclient.NotebookClient(
        notebook, timeout=100, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
