"""The report on exits and confidences. Oracles: `exits.json`, counted and drawn by hand."""

import json
import re

import pytest
import torch
from run_helpers import calibrated, tiny, whole, without_reports

from blocklocal._common.errors import InputError
from blocklocal.exits.curves import reliability, risk_curve
from blocklocal.exits.kept import EXITS, exits_of
from blocklocal.report import write_report
from blocklocal.report.exits_section import exits_section


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return calibrated(tmp_path_factory.mktemp("runs") / "run")


def test_a_bin_holds_the_answers_of_its_confidences():
    sure = torch.tensor([0.11, 0.12, 0.5, 0.99, 1.0])
    right = torch.tensor([False, True, True, True, True])
    found = reliability(sure, right)
    assert found.confidence == pytest.approx([0.115, 0.5, 0.995])
    assert found.right == [0.5, 1.0, 1.0]
    assert found.share == pytest.approx([0.4, 0.2, 0.4])


def test_a_curve_of_risk_goes_from_the_surest_answer_to_all():
    found = risk_curve(torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.tensor([True, True, False, True]))
    assert found.coverage == [0.25, 0.5, 0.75, 1.0]
    assert found.risk == pytest.approx([0, 0, 1 / 3, 1 / 4])


def test_the_page_has_pictures_a_row_per_budget_and_images_that_left_early_and_late(run):
    section = exits_section(run)
    kept = exits_of(run)
    assert len(section["pictures"]) == 4
    assert all(picture["svg"].startswith("<svg") for picture in section["pictures"])
    for row in section["rows"]:
        setting = kept.exits.for_budget(float(row[0])).setting
        assert row[2] == f"{100 * setting.right:.2f}"
        assert sum(setting.left) == pytest.approx(1)
        assert [float(cell[:-2]) for cell in row[4:]] == pytest.approx([100 * each for each in setting.left], abs=0.06)
    blocks = [each.block for each in kept.examples]
    assert blocks == sorted(blocks)
    assert blocks[0] < blocks[-1]
    page = (run / "report.html").read_text()
    assert '<section id="exits">' in page
    assert '<a href="#exits">' in page
    assert page.count("after block") == len(kept.examples)
    assert not re.search(r"https?://", page[page.index('id="exits"') : page.index('id="examples"')])


def test_a_run_that_was_not_calibrated_has_no_such_section(run, tmp_path):
    with without_reports():
        bare = whole(tiny(), tmp_path / "bare")
    assert exits_section(bare) is None
    assert 'id="exits"' not in write_report(bare).read_text()


def test_a_damaged_picture_is_named(run):
    told = json.loads((run / EXITS).read_text())
    try:
        (run / EXITS).write_text(json.dumps({**told, "examples": [{**told["examples"][0], "png": "bm8="}]}))
        with pytest.raises(InputError, match=r"exits\.json: an example is damaged"):
            exits_section(run)
    finally:
        (run / EXITS).write_text(json.dumps(told))


def test_backprop_has_no_exits_and_its_confidences_are_shown(tmp_path):
    run = calibrated(tmp_path / "run", rule="backprop", epochs=1)
    section = exits_section(run)
    assert section["rows"] == []
    assert len(section["pictures"]) == 3
    assert section["examples"] == []
