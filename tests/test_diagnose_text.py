"""`blocklocal diagnose` of a run on a text. Oracles: `evaluate`, and features of which it is known what they tell."""

import json
import math

import pytest
import torch

from blocklocal.cli import main
from blocklocal.diagnose.text import TextBlock, probe_nats, text_hints

SIZE = ["--vocabulary", "270", "--length", "8", "--width", "16", "--model-options", "layers", "4", "--blocks", "2"]
RUN = ["--epochs", "1", "--train-size", "64", "--batch-size", "8", "--no-tensorboard"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run and, beside it, one of backprop."""
    place = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BLOCKLOCAL_CACHE", str(place / "cache"))
        patch.chdir(place)
        (place / "texts").mkdir()
        for i in range(60):
            (place / "texts" / f"{i}.txt").write_text(f"Text number {i}. It has {i + 1} words, or more, and ends. " * 9)
        for name, rule in (("run", []), ("other", ["--rule", "backprop"])):
            assert main(["train", "--data", "texts", *SIZE, *RUN, *rule, "--output", name]) == 0
        yield place


def test_the_table_and_the_file_tell_what_evaluate_does(runs, capsys):
    capsys.readouterr()
    assert main(["evaluate", "run", "--split", "validation", "--json", "figures.json"]) == 0
    expected = json.loads((runs / "figures.json").read_text())
    capsys.readouterr()
    assert main(["diagnose", "run", "--batches", "2"]) == 0
    said = capsys.readouterr().out
    found = json.loads((runs / "run" / "diagnosis.json").read_text())
    bits = expected["measured"]["bits_per_byte"]
    assert [block["own"] for block in found["blocks"]] == pytest.approx(bits, rel=1e-4)
    assert found["against_rule"] == "backprop"
    first, last = found["blocks"]
    assert -1 <= first["cosine"] < 1
    assert last["cosine"] == pytest.approx(1)
    assert last["agrees"] == 100
    assert 0 <= first["agrees"] <= 100
    assert first["probe"] < first["frozen_probe"]
    assert last["probe"] is None
    assert first["against_probe"] is not None
    assert f"{first['own']:.3f}" in said
    assert all(f"- {hint}" in said for hint in found["hints"])
    assert (runs / "run" / "diagnosis.png").read_bytes().startswith(b"\x89PNG")


def test_backprop_itself_is_diagnosed(runs, capsys):
    assert main(["diagnose", "other", "--batches", "1"]) == 0
    found = json.loads((runs / "other" / "diagnosis.json").read_text())
    assert [block["cosine"] for block in found["blocks"]] == pytest.approx([1, 1])
    capsys.readouterr()


def test_a_text_without_a_validation_part_and_one_block_at_a_time_are_refused(runs, capsys):
    assert main(["train", "--data", "texts", *SIZE, *RUN, "--validation", "0", "--output", "bare"]) == 0
    capsys.readouterr()
    assert main(["diagnose", "bare"]) == 2
    assert "has no validation part" in capsys.readouterr().err
    assert main(["diagnose", "run", "--visit", "2"]) == 2
    assert "leave out --visit" in capsys.readouterr().err


def test_a_probe_reads_what_is_there_and_no_more():
    draw = torch.Generator().manual_seed(0)
    y = torch.randint(0, 16, (40_000,), generator=draw)
    told, silent = torch.eye(16)[y] + 0.1, torch.randn(len(y), 16, generator=draw)
    split = 32_000
    assert probe_nats((told[:split], y[:split]), (told[split:], y[split:]), 16) < 0.5
    assert probe_nats((silent[:split], y[:split]), (silent[split:], y[split:]), 16) == pytest.approx(
        math.log(16), rel=0.02
    )


def block(own, probe=1.0, frozen=2.0, against=None):
    return TextBlock("b", 0.5, own, probe, frozen, against, 50.0)


def test_hints_name_the_block_that_adds_nothing_learns_nothing_or_loses():
    fine = [block(2.0), block(1.9), block(1.8, None, None)]
    assert text_hints(fine, None) == ["nothing stands out."]
    assert text_hints([block(2.0), block(2.0)], None)[0].startswith("block 2 predicts no better")
    assert text_hints([block(2.0, 2.1)], None)[0].startswith("block 1 has learned nothing")
    assert (
        "0.300 bits per byte of what backprop knows are lost at block 1"
        in text_hints([block(2.0, 1.0, 2.0, 0.7), block(1.9, 1.0, 2.0, 0.7)], "backprop")[0]
    )
