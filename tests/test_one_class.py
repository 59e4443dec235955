"""A single class: always right, and no calibration to measure."""

import torch
from report_helpers import epoch, page, section, summary, write_run

from blocklocal import BlockLocal
from blocklocal.models import build_model
from blocklocal.report import write_report
from blocklocal.splitting import split
from blocklocal.training.evaluation import evaluate


def test_one_class_is_evaluated_without_a_calibration_error():
    model = build_model("mlp", classes=1, channels=1, image_size=(4, 4), width=4)
    x, y = torch.randn(6, 1, 4, 4), torch.zeros(6, dtype=torch.long)
    found = evaluate(BlockLocal(split(model, blocks=2), classes=1, readout=0, example=x), [(x, y)])
    assert (found.top1, found.ece, found.nll) == (100.0, None, 0.0)


def test_a_run_of_one_class_has_a_report(tmp_path):
    row = summary(test=100.0, test_ece=None, test_top3=None, train_top1=100.0, block_test_top1=[100.0] * 3)
    result = section(page(write_report(write_run(tmp_path / "run", row=row, epochs=[epoch(1)]))), "result")
    assert "100.0 %" in result
    assert "calibration" not in result
