"""The examples run as a reader runs them, and the blocks have learned."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import forking
import nbclient
import nbformat
import numpy
import pytest
from PIL import Image

EXAMPLES = Path(__file__).parents[1] / "examples"


def output_of(name: str, *given: str | Path, run: Callable = forking.run) -> str:
    ended = run([sys.executable, EXAMPLES / name, *given], capture_output=True, text=True, timeout=110)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def last_block(output: str) -> float:
    """Accuracy of the output, in percent."""
    found = re.search(r"in percent: \[(.*)\]", output)
    assert found is not None
    return float(found[1].split(",")[-1])


CHANCE = [("own_images.py", 50), ("own_model.py", 10), ("sequences.py", 10), ("segmentation.py", 30)]


@pytest.mark.parametrize(("name", "chance"), CHANCE)
def test_an_example_ends_with_blocks_far_above_chance(name: str, chance: float) -> None:
    assert last_block(output_of(name)) > min(2 * chance, 90)


def test_the_example_of_a_vit_learns_from_a_folder_of_images(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed")
    random = numpy.random.default_rng(0)
    for part, count in (("train", 24), ("test", 8)):
        for name, brightness in (("night", 40), ("day", 170)):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = random.integers(brightness, brightness + 60, (32, 32, 3), dtype=numpy.uint8)
                Image.fromarray(pixels).save(tmp_path / part / name / f"{i}.png")
    assert last_block(output_of("vit_images.py", tmp_path)) > 90


def test_the_example_of_text_is_far_above_the_largest_class() -> None:
    pytest.importorskip("transformers", reason="transformers is not installed")
    assert last_block(output_of("text_classes.py")) > 55  # 38 % of the samples held out are of one package


@pytest.mark.parametrize("library", ["lightning", "accelerate"])
def test_the_example_inside_another_library_learns(library: str) -> None:
    pytest.importorskip(library, reason=f"{library} is not installed")
    assert last_block(output_of(f"in_{library}.py", run=subprocess.run)) > 80


def test_the_example_of_values_ends_with_a_smaller_error_than_the_frozen_control() -> None:
    found = re.findall(r"in degrees: \[(.*)\]", output_of("regression.py"))
    own, frozen = (float(errors.split(",")[-1]) for errors in found)
    assert own < 0.8 * frozen


@pytest.mark.xdist_group("processes")
def test_the_example_of_several_processes_ends_with_the_weights_of_one() -> None:
    assert "the same weights: True" in output_of("several_processes.py", run=subprocess.run)


def test_the_notebook_runs_from_top_to_bottom(tmp_path: Path) -> None:
    notebook = nbformat.read(EXAMPLES / "first_steps.ipynb", as_version=4)
    nbclient.NotebookClient(
        notebook, timeout=100, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
