"""Oracle: a file that tells when it runs. The code that a run names runs only where the user says so."""

import json
import shutil
from pathlib import Path

import pytest
from run_helpers import StopAfter, assert_same_run, cli, flags, summary

from blocklocal.report.html import write_report
from blocklocal.runs.looking import load_network
from blocklocal.runs.run import resume_run

MODEL = """
import sys
from pathlib import Path
from torch import nn

with Path({witness!r}).open("a") as file:
    file.write("ran\\n")

def net(classes, channels, image_size):
    pixels = channels * image_size[0] * image_size[1]
    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, 8), nn.ReLU(), nn.Linear(8, classes))
"""


pytestmark = pytest.mark.usefixtures("no_reports")


class Made:
    """A run of a model of the user's own, and a witness of every time that code ran."""

    def __init__(self, folder: Path):
        self.file, self.witness, self.run = folder / "net.py", folder / "witness", folder / "run"
        self.file.write_text(MODEL.format(witness=str(self.witness)))
        self.flags = flags(epochs=2, model=f"{self.file}:net")
        at = self.flags.index("--width")
        del self.flags[at : at + 2]

    def train(self) -> "Made":
        said = cli("train", *self.flags, "--quiet", "--output", self.run)
        assert said.status == 0, said.text
        self.witness.unlink()
        return self

    def stop(self) -> "Made":
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("blocklocal.runs.train.StopSignals", lambda: StopAfter(2))
            assert cli("train", *self.flags, "--quiet", "--output", self.run).status == 130
        self.witness.unlink()
        return self

    @property
    def ran(self) -> bool:
        return self.witness.exists()


@pytest.fixture
def made(tmp_path) -> Made:
    return Made(tmp_path)


OPENING = {
    "evaluate": lambda made: ("evaluate", made.run),
    "predict": lambda made: ("predict", made.run, made.run / "nothing.png"),
    "diagnose": lambda made: ("diagnose", made.run),
    "train from its settings": lambda made: ("train", "--config", made.run, "--output", made.run.with_name("new")),
    "train from its config.json": lambda made: (
        *("train", "--config", made.run / "config.json", "--output", made.run.with_name("new")),
    ),
    "compare": lambda made: ("compare", "--config", made.run, "--output", made.run.with_name("new")),
    "train it longer": lambda made: ("train", "--resume", made.run, "--epochs", 3),
    "train it longer in two processes": lambda made: (
        *("train", "--resume", made.run, "--epochs", 3, "--processes", 2),
    ),
}


@pytest.mark.parametrize("opening", OPENING)
def test_a_run_with_code_asks_for_trust_and_says_which_file_would_run(made, opening):
    made.train()
    said = cli(*OPENING[opening](made))
    assert said.status == 2
    assert "--trust" in said.text
    assert str(made.run / "model" / "net.py") in said.text.replace(" ", "") or "net.py" in said.text
    assert not made.ran


def test_a_stopped_run_with_code_asks_for_trust_too(made):
    made.stop()
    said = cli("train", "--resume", made.run)
    assert (said.status, made.ran) == (2, False)
    assert "SHA-256" in said.text


def test_trusted_code_is_evaluated_and_resumed(made, tmp_path):
    made.stop()
    assert cli("train", "--resume", made.run, "--trust", "--quiet").status == 0
    assert made.ran
    assert cli("evaluate", made.run, "--trust").status == 0
    other = cli("train", *made.flags, "--quiet", "--output", tmp_path / "whole")
    assert other.status == 0
    assert_same_run(made.run, tmp_path / "whole")
    assert summary(made.run)["model"] == f"{made.file}:net"


def test_report_and_recipes_never_run_code(made):
    made.train()
    assert write_report(made.run).stat().st_size > 0
    assert cli("recipes").status == 0
    assert not made.ran


def test_a_run_opens_with_its_own_copy_of_a_file_that_has_changed_or_gone(made):
    made.train()
    made.file.write_text("raise RuntimeError('another file')")
    assert cli("evaluate", made.run, "--trust").status == 0
    made.file.unlink()
    assert cli("evaluate", made.run, "--trust").status == 0
    moved = made.run.with_name("moved")
    shutil.move(made.run, moved)
    assert load_network(moved, trust=True)[2].learners


def test_a_copy_that_was_changed_is_refused_although_it_is_trusted(made):
    made.train()
    copy = made.run / "model" / "net.py"
    copy.write_text(copy.read_text() + "\n# harmless?\n")
    said = cli("evaluate", made.run, "--trust")
    assert (said.status, made.ran) == (2, False)
    assert "is not the file that the run was trained with" in said.text


@pytest.mark.parametrize("name", ["../net.py", "/etc/passwd", "missing.py"])
def test_an_origin_that_names_files_elsewhere_is_refused(made, name):
    made.train()
    file = made.run / "origin.json"
    saved = json.loads(file.read_text())
    saved["code"]["digests"][name] = next(iter(saved["code"]["digests"].values()))
    file.write_text(json.dumps(saved))
    said = cli("evaluate", made.run, "--trust")
    assert (said.status, made.ran) == (2, False)


def test_an_origin_whose_file_has_no_sum_is_refused(made, tmp_path):
    made.train()
    elsewhere = tmp_path / "elsewhere.py"
    elsewhere.write_text(made.file.read_text())
    saved = json.loads((made.run / "origin.json").read_text())
    saved["code"]["file"] = "../../elsewhere.py"
    (made.run / "origin.json").write_text(json.dumps(saved))
    said = cli("evaluate", made.run, "--trust")
    assert (said.status, made.ran) == (2, False)
    assert "must be one of those whose SHA-256 is known" in said.text


def test_a_model_that_the_command_names_itself_needs_no_trust(made, tmp_path):
    made.train()
    said = cli("train", "--config", made.run, "--model", f"{made.file}:net", "--output", tmp_path / "new", "--quiet")
    assert said.status == 0, said.text
    assert made.ran


def test_a_comparison_that_names_its_model_goes_on_without_trust(made, tmp_path):
    words = ["compare", *made.flags, "--rules", "frozen", "--seeds", 0, 1, "--quiet", "--output", tmp_path / "c"]
    assert cli(*words).status == 0
    (tmp_path / "c" / "frozen-seed1" / "summary.json").unlink()
    assert cli(*words, "--resume").status == 0


def test_a_comparison_whose_model_has_changed_does_not_go_on(made, tmp_path):
    words = ["compare", *made.flags, "--rules", "frozen", "--quiet", "--output", tmp_path / "c"]
    assert cli(*words).status == 0
    made.file.write_text(made.file.read_text() + "\n")
    said = cli(*words, "--resume")
    assert said.status == 2
    assert "is not the file that" in said.text


def test_what_a_model_imports_from_beside_it_is_kept_with_it(made):
    made.file.with_name("width.py").write_text("WIDTH = 8\n")
    made.file.write_text("from width import WIDTH\n" + made.file.read_text().replace(", 8)", ", WIDTH)"))
    made.train()
    made.file.with_name("width.py").write_text("WIDTH = 9\n")
    assert cli("evaluate", made.run, "--trust").status == 0
    saved = json.loads((made.run / "origin.json").read_text())
    assert set(saved["code"]["digests"]) == {"net.py", "width.py"}


@pytest.mark.parametrize("kind", ["file", "package", "link to a folder", "link to a file"])
def test_a_file_that_was_put_beside_the_copies_is_never_imported(made, tmp_path, kind):
    made.file.write_text("import planted_beside\n" + made.file.read_text())
    made.file.with_name("planted_beside.py").write_text("")
    made.train()
    planted, code = made.run / "model" / "json5.py", f"from pathlib import Path\nPath({str(made.witness)!r}).touch()\n"
    if kind == "file":
        planted.write_text(code)
    elif kind == "package":
        (made.run / "model" / "json5").mkdir()
        (made.run / "model" / "json5" / "__init__.py").write_text(code)
    else:
        (tmp_path / "json5").mkdir()
        (tmp_path / "json5" / "__init__.py").write_text(code)
        target = tmp_path / "json5" / ("" if "folder" in kind else "__init__.py")
        (made.run / "model" / ("json5" if "folder" in kind else "json5.py")).symlink_to(target)
    said = cli("evaluate", made.run, "--trust")
    assert (said.status, made.ran) == (2, False)
    assert "is none of the files" in said.text


def test_in_python_trust_is_an_argument(made):
    made.stop()
    assert resume_run(made.run, quiet=True, trust=True)["finished"]
