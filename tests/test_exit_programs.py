"""A program per block. Oracle: `network.predict(x, exit=…)`, and the runner of the documentation."""

import json
import re
from pathlib import Path

import pytest
import torch
from run_helpers import tiny, whole, without_reports
from torch import nn

import blocklocal as bl
from blocklocal._common.errors import InputError
from blocklocal.cli import main
from blocklocal.exits import export_programs
from blocklocal.network.exits import Exits
from blocklocal.runs.calibrate import calibrate_run
from blocklocal.runs.exits import exits_for
from blocklocal.runs.looking import load_network

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch, about its own exporters
PAGE = Path(__file__).parents[1] / "docs" / "uncertainty.md"


def runner():
    """The function `answers` of the documentation."""
    code = next(
        each for each in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL) if "def answers" in each
    )
    found: dict = {}
    exec(code.split("\n\nlabel, block = answers")[0], found)
    return found["answers"]


def network() -> tuple[bl.BlockLocal, torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(*(each for _ in range(3) for each in (nn.Linear(6, 6), nn.ReLU())), nn.Linear(6, 4))
    x = torch.randn(24, 6)
    net = bl.BlockLocal(bl.split(model, 4), classes=4, example=x, readout=1)
    for _ in range(6):
        net.step(x, x[:, :4].argmax(1))
    return net, x


@pytest.mark.parametrize("by", ["confidence", "together", "agreement"])
def test_the_runner_of_the_page_answers_as_predict_does(by, tmp_path):
    net, x = network()
    t = 0.0 if by == "agreement" else net.predict(x).blocks[0].confidence.median().item()
    warm = (0.7, 0.9, 1.1, 1.3)
    exits = Exits((t, None, t), by, warm, warm)
    export_programs(net, tmp_path / "programs", x[:2], exits)
    found = net.predict(x, exits)
    label, block = runner()(tmp_path / "programs", x)
    assert torch.equal(label, found.label)
    assert torch.equal(block, found.block)
    assert len(block.unique()) > 1


def test_programs_of_onnx_give_the_same_numbers(tmp_path):
    pytest.importorskip("onnxscript")
    onnx = pytest.importorskip("onnx")
    from onnx.reference import ReferenceEvaluator

    net, x = network()
    export_programs(net, tmp_path / "programs", x[:2], Exits((0.5, 0.5, 0.5)), "onnx")
    net.eval()
    a, logits = x, net.block_logits(x)
    for k in range(4):
        file = tmp_path / "programs" / f"block{k + 1}.onnx"
        onnx.checker.check_model(str(file))
        a, own = (torch.from_numpy(each) for each in ReferenceEvaluator(str(file)).run(None, {"a": a.detach().numpy()}))
        torch.testing.assert_close(own, logits[k], rtol=1e-4, atol=1e-5)


def test_a_run_is_exported_with_the_exits_of_a_budget(tmp_path, capsys):
    with without_reports():
        whole(tiny(model="resnet20", width=8, blocks=3, epochs=1, train_size=200, validation=100), tmp_path / "run")
    calibrate_run(tmp_path / "run")
    place = tmp_path / "programs"
    assert main(["export", str(tmp_path / "run"), "--to", str(place), "--programs", "torch", "--risk", "0.9"]) == 0
    manifest = json.loads((place / "manifest.json").read_text())
    choice = exits_for(tmp_path / "run", None, 0.9)
    assert len(manifest["classes"]) == 10
    assert manifest["mean"]
    assert [block["threshold"] for block in manifest["blocks"]] == [*choice.exits.thresholds, None]
    _, facts, net = load_network(tmp_path / "run", None, "cpu")
    x = torch.randn(9, *facts.example(2).shape[1:])
    label, _ = runner()(place, x)
    assert torch.equal(label, net.predict(x, choice.exits).label)
    capsys.readouterr()
    for flags, said in [
        (["--programs", "torch"], "give --budget or --risk"),
        (["--budget", "0.5"], "are for programs"),
        (["--programs", "torch", "--risk", "0.9"], "not empty"),
    ]:
        assert main(["export", str(tmp_path / "run"), "--to", str(place), *flags]) == 2
        assert said in capsys.readouterr().err


def test_what_cannot_be_written_is_refused(tmp_path):
    net, x = network()
    with pytest.raises(InputError, match="torch or onnx, not 'pickle'"):
        export_programs(net, tmp_path / "a", x, Exits((0.5, 0.5, 0.5)), "pickle")
    labels = bl.BlockLocal(bl.split(nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)), 2), labels=3, example=x)
    with pytest.raises(InputError, match="programs answer one class per sample"):
        export_programs(labels, tmp_path / "c", x, Exits((0.5,)))
    with pytest.raises(InputError, match="one for every block but the last"):
        export_programs(net, tmp_path / "b", x, Exits((0.5,)))
