"""What a Trainer shows: in a notebook one display that is drawn anew, elsewhere a line per epoch, or nothing."""

import sys
import xml.etree.ElementTree as ET

import nbclient
import nbformat
import pytest
from rule_helpers import data, network

from blocklocal import Trainer
from blocklocal.training.notebook import curve, html, in_notebook, line

BATCHES = [data(seed=seed) for seed in range(2)]


def record(epoch, loss, validation):
    return {"epoch": epoch, "loss": loss, "train_top1": [None] * len(loss), "validation_top1": validation}


RECORDS = [record(1, [2.0, 1.0], [None, 10.0]), record(2, [1.5, 0.5], [None, 30.0])]


def test_outside_of_a_notebook_nothing_is_shown_unless_asked_for(capsys):
    assert not in_notebook()
    Trainer(network("mlp"), epochs=1).fit(BATCHES)
    assert capsys.readouterr().out == ""
    records = Trainer(network("mlp"), epochs=2, show=True).fit(BATCHES)
    assert capsys.readouterr().out.splitlines() == [line(each, 2) for each in records]


def test_a_line_has_the_figures_of_every_block():
    assert line(RECORDS[1], 3) == "epoch 2/3  loss 1.500 0.500  validation % – 30.0"


def test_a_page_has_a_row_per_block_and_a_curve_of_what_every_epoch_has():
    page = ET.fromstring(html(RECORDS, 3))
    rows = [[cell.text for cell in row] for row in page.iter("tr")]
    assert rows == [["block", "loss", "train %", "validation %"], ["1", "1.500", "–", "–"], ["2", "0.500", "–", "30.0"]]
    (drawn,) = page.iter("polyline")  # the first block has no accuracy
    (x0, y0), (x1, y1) = (map(float, point.split(",")) for point in drawn.get("points").split())
    assert x1 > x0
    assert y1 < y0  # accuracy has risen, and y counts from above


def test_without_validation_the_curve_is_of_the_losses_and_one_epoch_has_none():
    without = [{**each, "validation_top1": [None, None]} for each in RECORDS]
    assert curve(without).count("<polyline") == 2
    assert curve(without[:1]) == ""


def test_a_deep_network_shows_its_first_and_last_blocks():
    deep = record(1, [float(k) for k in range(20)], [None] * 20)
    assert line(deep, 1).split()[3:] == [f"{k:.3f}" for k in (0, 1, 2, 3, 16, 17, 18, 19)]


@pytest.mark.slow
def test_in_a_real_notebook_there_is_one_table_with_a_curve(tmp_path):
    code = f"""
import sys; sys.path[:0] = {sys.path!r}
from test_notebook import BATCHES, Trainer, network
Trainer(network("mlp"), epochs=3).fit(BATCHES)
None"""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    where = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=100, kernel_name="python3", resources=where).execute()
    (output,) = notebook.cells[0].outputs
    assert "epoch 3/3" in output["data"]["text/html"]
    assert "<svg" in output["data"]["text/html"]
