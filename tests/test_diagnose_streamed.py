"""A run diagnosed with one block at a time in memory. Oracle: the ordinary diagnosis of the same run."""

from __future__ import annotations

import gc
import weakref
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from run_helpers import assert_refused, cli, tiny, whole, with_dropout, without_reports

from blocklocal.block.learner import BlockLearner
from blocklocal.diagnose import Diagnosis, diagnose_run
from blocklocal.runs.run import start_run
from blocklocal.streaming.resting import Blueprint
from blocklocal.streaming.settings import Streaming

STREAMED = {
    "maps, BatchNorm, dropout": with_dropout(train_size=50, epochs=1),
    "a chained twin": tiny(blocks=3, epochs=1, twin="chain", message_delay=2),
    "frozen": tiny(model="resnet20", width=4, blocks=3, epochs=1, rule="frozen"),
}


@pytest.fixture(params=STREAMED, scope="module")
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A streamed run, and one of greedy learning to hold it against."""
    folder, config = tmp_path_factory.mktemp("runs"), STREAMED[request.param]
    with without_reports():
        start_run(config, folder / "run", quiet=True, streaming=Streaming(2))
        whole(config.edit(rule="greedy", twin="dense", message_delay=0), folder / "greedy")
    return folder / "run"


def figures(found: Diagnosis) -> list[dict[str, Any]]:
    return [{name: pytest.approx(value, rel=1e-4, abs=1e-4) for name, value in asdict(b).items()} for b in found.blocks]


def test_the_figures_are_those_of_the_whole_network_in_memory(run: Path) -> None:
    against = run.with_name("greedy")
    ordinary = diagnose_run(run, against=against, images=30, batches=3)
    streamed = diagnose_run(run, against=against, images=30, batches=3, visit=2)
    assert [asdict(block) for block in streamed.blocks] == figures(ordinary)
    assert any(block.cosine is not None for block in streamed.blocks)
    assert streamed.left_out == []
    assert not list(run.glob(".cache-*"))


def test_no_more_blocks_are_in_memory_than_in_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, most, fill = list[weakref.ref[BlockLearner]](), [0], Blueprint._filled

    def filled(self: Blueprint, values: Any) -> BlockLearner:
        learner = fill(self, values)
        made.append(weakref.ref(learner))
        most[0] = max(most[0], sum(ref() is not None for ref in made))
        return learner

    with without_reports():
        start_run(tiny(model="resnet20", width=2, blocks=5, epochs=1), tmp_path / "run", quiet=True)
    monkeypatch.setattr(Blueprint, "_filled", filled)
    gc.disable()
    try:
        diagnose_run(tmp_path / "run", images=10, batches=2, visit=2)
    finally:
        gc.enable()
    assert len(made) > 5
    assert most[0] <= 3


def test_what_needs_the_whole_network_is_left_out_and_said(tmp_path: Path) -> None:
    with without_reports():
        whole(tiny(epochs=1, rule="direct-feedback-alignment", blocks=3), tmp_path / "feedback")
        whole(tiny(epochs=1, rule="backprop", blocks=3), tmp_path / "backprop")
    said = cli("diagnose", tmp_path / "feedback", "--visit", 2)
    assert said.status == 0, said.text
    assert "no cosines" in said.text
    assert "every block waits for the error of the output" in said.text
    assert f"nothing is said of {tmp_path / 'backprop'}" in said.text.replace("\n", "")
    found = diagnose_run(tmp_path / "feedback", visit=2)
    assert [block.cosine for block in found.blocks] == [None] * 3
    assert found.against is None
    assert len(found.left_out) == 2


def test_a_run_whose_blocks_are_one_is_refused(tmp_path: Path) -> None:
    with without_reports():
        whole(tiny(epochs=1, rule="backprop"), tmp_path / "run")
    assert_refused(cli("diagnose", tmp_path / "run", "--visit", 2), "backprop", "as one", "leave out --visit")
    assert_refused(cli("diagnose", tmp_path / "run", "--visit", 0), "visit")
