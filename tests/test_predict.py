"""Oracle: the lines of one file at a time. Prediction of many files is bounded, goes on as it can, and says no nan."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from data_files import picture
from run_helpers import assert_refused, cli, flags

from blocklocal._common.errors import InputError
from blocklocal.network.network import BlockLocal
from blocklocal.runs import predict
from blocklocal.runs.looking import load_network
from blocklocal.runs.predict import BATCH_PIXELS, MOST_IMAGES, predict_each

pytestmark = pytest.mark.usefixtures("no_reports")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the digits: grey images of 8x8."""
    folder = tmp_path_factory.mktemp("run") / "run"
    assert cli("train", *flags(epochs=1), "--output", folder, "--quiet").status == 0
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("files")
    for i in range(230):
        picture(i, (8, 8)).save(folder / f"{i:03d}.png")
    return sorted(folder.iterdir())


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by the number of images with every batch that a network predicts."""
    sizes: list[int] = []
    original = BlockLocal.predict
    monkeypatch.setattr(BlockLocal, "predict", lambda self, x: sizes.append(len(x)) or original(self, x))
    return sizes


def predict_files(run: Path, images: Sequence[Path]) -> Iterator[str]:
    """The lines that are printed."""
    return (line for said in predict_each(run, images) for line in said.lines())


def test_many_files_are_predicted_in_batches_of_bounded_size(run, files, batches):
    lines = list(predict_files(run, files))
    assert batches == [MOST_IMAGES, MOST_IMAGES, len(files) - 2 * MOST_IMAGES]
    assert [line.partition(": ")[0] for line in lines if not line.startswith(" ")] == [str(path) for path in files]


def test_large_images_make_smaller_batches(run, files, batches, monkeypatch):
    monkeypatch.setattr(predict, "BATCH_PIXELS", 8 * 8 * 3)
    list(predict_files(run, files[:7]))
    assert batches == [3, 3, 1]
    assert BATCH_PIXELS // (1000 * 1000) == 0  # then one at a time
    monkeypatch.setattr(predict, "BATCH_PIXELS", 1)
    list(predict_files(run, files[:2]))
    assert batches[3:] == [1, 1]


def test_the_lines_of_a_file_do_not_depend_on_its_batch(run, files):
    alone = [line for path in files[98:102] for line in predict_files(run, [path])]
    together = list(predict_files(run, files))
    each = len(alone) // 4
    assert together[98 * each : 102 * each] == alone


@pytest.mark.parametrize("place", [0, 3, 120])
def test_a_bad_file_is_named_after_the_lines_of_all_files_before_it(run, files, tmp_path, place):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    lines: list[str] = []
    with pytest.raises(InputError, match=r"bad.png cannot be decoded"):
        lines.extend(predict_files(run, [*files[:place], tmp_path / "bad.png", *files[place:]]))
    assert lines == (list(predict_files(run, files[:place])) if place else [])


def test_no_file_is_read_before_the_lines_of_the_batches_before_it(run, files, tmp_path):
    later = tmp_path / "later.png"
    lines = predict_files(run, [*files[:MOST_IMAGES], later])
    first = next(lines)
    picture(1, (8, 8)).save(later)
    assert first.startswith(f"{files[0]}: ")
    assert any(line.startswith(f"{later}: ") for line in lines)


@pytest.mark.timeout(60)
def test_a_pipe_is_refused_unopened(run, tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    assert_refused(cli("predict", run, tmp_path / "pipe.png"), "pipe.png cannot be decoded", "it is a named pipe")


def test_a_network_that_predicts_no_numbers_is_refused(run, files, monkeypatch):
    config, facts, network = load_network(run)
    with torch.no_grad():
        next(network.parameters()).fill_(float("nan"))
    monkeypatch.setattr(predict, "load_network", lambda *_, **__: (config, facts, network))
    said = cli("predict", run, files[0])
    assert_refused(said, "probabilities that are no numbers", "weights are damaged, or its training diverged")
    assert "nan %" not in said.text


def test_the_name_of_a_file_that_is_no_utf8_is_shown_escaped(run, files, tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png"))
    path.write_bytes(files[0].read_bytes())
    assert next(predict_files(run, [path])).startswith(rf"{tmp_path}/caf\xe9.png: ")


def test_a_folder_stands_for_all_images_in_it(run, files, tmp_path):
    (tmp_path / "below").mkdir()
    for k, place in enumerate(("b.png", "below/a.png", "below/B.PNG")):
        (tmp_path / place).write_bytes(files[k].read_bytes())
    (tmp_path / "notes.txt").write_text("no picture")
    inside = [tmp_path / place for place in ("b.png", "below/B.PNG", "below/a.png")]
    assert list(predict_files(run, [files[0], tmp_path])) == list(predict_files(run, [files[0], *inside]))
    (tmp_path / "empty").mkdir()
    assert_refused(cli("predict", run, tmp_path / "empty"), "holds no images")


def test_a_table_has_a_row_per_image_with_what_the_lines_say(run, files, tmp_path):
    out = tmp_path / "said.csv"
    assert cli("predict", run, *files[:3], "--output", out).status == 0
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == [str(path) for path in files[:3]]
    lines = [line for line in predict_files(run, files[:3]) if not line.startswith(" ")]
    said = [f"{row['file']}: {row['label']}  {100 * float(row['confidence']):.1f} %" for row in rows]
    assert said == lines
    assert "ensemble label" in rows[0]
    assert_refused(cli("predict", run, files[0], "--output", out), "--overwrite")
    assert cli("predict", run, files[0], "--output", out, "--overwrite").status == 0


def test_json_has_the_probabilities_of_all_classes(run, files, tmp_path):
    out = tmp_path / "said.json"
    assert cli("predict", run, *files[:2], "--output", out).status == 0
    found = json.loads(out.read_text())["predictions"]
    assert [each["file"] for each in found] == [str(path) for path in files[:2]]
    for each in found:
        assert sum(each["probabilities"].values()) == pytest.approx(1.0, abs=1e-5)
        assert each["probabilities"][each["label"]] == max(each["probabilities"].values()) == each["confidence"]
    assert cli("predict", run, files[0], "--output", out).status == 0  # it is ours


def test_another_kind_of_file_is_refused_before_anything_is_read(run, files, tmp_path):
    assert_refused(cli("predict", run, files[0], "--output", tmp_path / "said.txt"), ".csv or .json")
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    assert_refused(cli("predict", run, files[0], bad, "--output", tmp_path / "said.csv"), "bad.png cannot be decoded")
    assert not (tmp_path / "said.csv").exists()
