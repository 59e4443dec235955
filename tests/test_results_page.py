"""Oracle: the stored rows. The page of results is what they give, and says so of itself."""

import importlib.util
import shutil
from pathlib import Path

import pytest

from blocklocal._common.errors import InputError

DOCS = Path(__file__).parents[1] / "docs"
EXPERIMENTS = ("table1", "figure2", "figure3", "accuracy")


def load_script():
    spec = importlib.util.spec_from_file_location("make_results", DOCS / "make_results.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


script = load_script()


@pytest.fixture(scope="module")
def remade(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the stored rows and notes, without figures, and the page made from it."""
    results = tmp_path_factory.mktemp("docs") / "results"
    for name in EXPERIMENTS:
        (results / name).mkdir(parents=True)
        for file in ("results.json", "notes.md"):
            shutil.copy(DOCS / "results" / name / file, results / name / file)
    assert script.main([str(results)]) == 0
    return results


def test_the_page_is_what_the_stored_rows_give(remade):
    assert remade.with_suffix(".md").read_text() == (DOCS / "results.md").read_text()


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_figure_is_made_again_and_small_enough_to_keep(remade, name):
    kept = sorted(path.name for path in (DOCS / "results" / name).iterdir() if path.suffix in (".png", ".svg"))
    made = sorted(path.name for path in (remade / name).iterdir() if path.suffix in (".png", ".svg"))
    assert kept == made
    assert kept
    for path in (DOCS / "results" / name).iterdir():
        assert path.stat().st_size < 1_000_000, path.name


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_names_the_command_that_made_it(name):
    assert f"blocklocal reproduce {name}" in (DOCS / "results" / name / "notes.md").read_text()


def test_rows_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(InputError, match=r"results\.json cannot be read"):
        script.read_rows(tmp_path)
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(InputError, match="must hold a list of rows"):
        script.read_rows(tmp_path)
    assert script.main([]) == 2
    assert "# The paper" in script.make_page(tmp_path)
