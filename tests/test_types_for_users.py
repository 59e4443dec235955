"""A user's code completes and type-checks. Oracles: two type checkers, and an editor's language server."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from test_docs import BLOCK, PAGES
from type_helpers import completions, pyrefly_errors, pyright_errors

from blocklocal.network.settings import LearningSettings

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))
START = """\
import torch
from torch import Tensor, nn
from typing_extensions import assert_type

import blocklocal as bl
from blocklocal.block.loss import LocalResult

cut = bl.split(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), blocks=2)
x, y = torch.randn(3, 4), torch.zeros(3, dtype=torch.long)
network = bl.BlockLocal(cut, classes=2)
"""
RIGHT = """\
bl.BlockLocal(cut, classes=2, rule="frozen", scope="neighbour", order="exact", normalise="units", readout=1, tau=0.5)
bl.BlockLocal(cut, labels=2, rule="one that I have registered", learning=bl.Learning(scope="local"))
bl.BlockLocal(cut, classes=2, optimizer=torch.optim.RMSprop)
bl.split(nn.Linear(2, 2), blocks=1, balance="flops")
bl.Trainer(network, schedule="cosine", optimizer=bl.adam(lr=1e-3))
assert_type(network.step(x, y), list[LocalResult | None])
assert_type(network.predict(x), bl.Prediction)
assert_type(network.predict(x).label, Tensor)
assert_type(network.predict(x).blocks[0], bl.Prediction | None)
assert_type(network.predict(x).combined, bl.Prediction | None)
assert_type(network.to_plain(), nn.Module)
"""
WRONG = """\
bl.BlockLocal(cut, classes=2, rul="frozen")
bl.BlockLocal(cut, classes=2, scope="neighbor")
bl.BlockLocal(cut, classes=2, order="secnd")
bl.BlockLocal(cut, classes=2, normalise="unit")
bl.BlockLocal(cut, classes=2, reconstruct="picture")
bl.BlockLocal(cut, classes=2, readout="two")
bl.BlockLocal(cut, classes="2")
bl.BlockLocal(nn.Linear(4, 2), classes=2)
bl.Learning(scope="neighbor")
bl.Learning(scop="local")
bl.split(nn.Linear(2, 2), blocks=1, balance="flop")
bl.Trainer(network, schedule="cosin")
network.step(x)
network.step(x, 3)
network.predict(x).lable
network.predict(x).blocks[0].label
"""
CHECKERS = {"pyrefly": pyrefly_errors, "basedpyright": pyright_errors}


@pytest.fixture(params=CHECKERS)
def checker(request: pytest.FixtureRequest):
    if importlib.util.find_spec(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    return CHECKERS[request.param]


def test_the_code_of_the_pages_and_of_the_examples_type_checks(checker, tmp_path):
    for page in PAGES:
        code = "\n".join(text for kind, text in BLOCK.findall(page.read_text()) if kind == "python")
        (tmp_path / f"page_{page.stem.replace('-', '_')}.py").write_text(code)
    for example in EXAMPLES:
        (tmp_path / f"example_{example.name}").write_text(example.read_text())
    assert checker(tmp_path) == {}


def test_a_wrong_setting_name_value_or_argument_is_an_error_and_a_right_one_is_none(checker, tmp_path):
    (tmp_path / "right.py").write_text(START + RIGHT)
    (tmp_path / "wrong.py").write_text(START + WRONG)
    first = START.count("\n") + 1
    assert set(checker(tmp_path)) == {("wrong.py", first + k) for k in range(WRONG.count("\n"))}


def test_an_editor_offers_settings_their_values_and_what_a_prediction_has(tmp_path):
    ends = [
        "bl.BlockLocal(cut, classes=2, ",
        'bl.BlockLocal(cut, classes=2, scope="',
        'bl.Learning(order="',
        "network.",
        "network.predict(x).",
    ]
    settings, scopes, orders, members, prediction = completions(tmp_path, [START + end for end in ends])
    assert {f"{name}=" for name in LearningSettings.__annotations__} <= settings
    assert {name.strip("'\"") for name in scopes} == {"local", "neighbour"}
    assert {name.strip("'\"") for name in orders} == {"auto", "exact", "second", "first"}
    assert {"step", "predict", "configure", "to_plain", "learners"} <= members
    assert {"probabilities", "label", "confidence", "blocks", "combined"} <= prediction
