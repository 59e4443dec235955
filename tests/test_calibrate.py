"""`blocklocal calibrate`, and `--budget` and `--risk` of predict and evaluate. Oracle: the same from Python."""

import csv
import json

import pytest
import torch
from run_helpers import calibrated, tiny, whole, without_reports

from blocklocal._common.errors import InputError
from blocklocal.cli import main
from blocklocal.cli.calibrate import calibration_lines
from blocklocal.exits import fit_exits
from blocklocal.runs.calibrate import run_temperatures
from blocklocal.runs.exits import EXITS, exits_for, kept_exits
from blocklocal.runs.looking import load_network
from blocklocal.runs.sets import evaluation_batches, load_data, normalise
from blocklocal.uncertainty.foreign import foreign_scores


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return calibrated(tmp_path_factory.mktemp("runs") / "run")


def test_the_command_writes_and_prints_what_is_fitted_on_the_validation_part(run, capsys):
    assert main(["calibrate", str(run)]) == 0
    said = capsys.readouterr().out
    config, facts, network = load_network(run, None, "cpu")
    data = load_data(config, run)
    found = fit_exits(network, evaluation_batches(config, data.validation, facts, torch.device("cpu")))
    assert f"Fitted and measured on {len(data.validation)} validation samples." in said
    assert f"{found.own[0].nll_before:.4f} → {found.own[0].nll:.4f}" in said
    assert "--budget 0.75" in said
    assert exits_for(run, 0.9, None).exits == found.for_budget(0.9).exits
    assert str(run / EXITS) in said


def test_evaluate_says_what_each_block_has_answered_and_what_it_cost(run, capsys, tmp_path):
    assert main(["evaluate", str(run), "--budget", "0.9", "--json", str(tmp_path / "found.json")]) == 0
    said, found = capsys.readouterr().out, json.loads((tmp_path / "found.json").read_text())
    assert sum(found["left"]) == pytest.approx(100)
    assert found["cost"] <= 110
    config, facts, network = load_network(run, None, "cpu")
    choice = exits_for(run, 0.9, None)
    right = total = cost = 0
    for x, y in evaluation_batches(config, load_data(config, run).test, facts, torch.device("cpu")):
        prediction = network.predict(x, choice.exits)
        right, total = right + int((prediction.label == y).sum()), total + len(y)
        cost += sum(choice.prices[k - 1] for k in prediction.block.tolist())
    assert found["right"] == pytest.approx(100 * right / total)
    assert 0 <= found["changed"] <= 100
    assert found["cost"] == pytest.approx(100 * cost / total)
    assert f"right {found['right']:.2f} %  with {found['cost']:.1f} % of the FLOPs" in said


def test_predict_names_the_block_that_answered(run, tmp_path, capsys):
    from PIL import Image

    for k in range(4):
        pixels = torch.randint(0, 255, (8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(k))
        Image.fromarray(pixels.numpy()).save(tmp_path / f"{k}.png")
    images = [str(tmp_path / f"{k}.png") for k in range(4)]
    assert main(["predict", str(run), *images, "--budget", "0.9"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4  # the blocks that were not asked say nothing
    assert all("(block " in line for line in lines)
    assert main(["predict", str(run), *images, "--budget", "0.9", "--output", str(tmp_path / "said.csv")]) == 0
    with (tmp_path / "said.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [f"(block {row['block']})" in line for row, line in zip(rows, lines, strict=True)] == [True] * 4
    assert main(["predict", str(run), *images, "--budget", "0.9", "--output", str(tmp_path / "said.json")]) == 0
    told = json.loads((tmp_path / "said.json").read_text())["predictions"]
    assert [str(each["block"]) for each in told] == [row["block"] for row in rows]


def test_what_is_unlike_the_training_data_is_said(run, tmp_path, capsys):
    from PIL import Image

    limit = kept_exits(run).limits["disagreement"]
    config, facts, network = load_network(run, None, "cpu")
    test = load_data(config, run).test
    for k in range(6):
        Image.fromarray(test.pixels[k, 0].numpy()).save(tmp_path / f"{k}.png")
    Image.fromarray((255 * torch.rand(8, 8)).to(torch.uint8).numpy()).save(tmp_path / "noise.png")
    names = [str(tmp_path / f"{name}.png") for name in [*range(6), "noise"]]
    assert main(["predict", str(run), *names, "--foreign", "--output", str(tmp_path / "said.json")]) == 0
    told = json.loads((tmp_path / "said.json").read_text())["predictions"]
    batch = normalise(test.pixels[:6], facts)
    divided = zip(network.eval().block_logits(batch), kept_exits(run).temperatures.blocks, strict=True)
    expected = foreign_scores([each / t for each, t in divided])["disagreement"]
    assert [each["disagreement"] for each in told[:6]] == pytest.approx(expected.tolist(), rel=1e-3, abs=1e-5)
    assert [each["foreign"] for each in told] == [each["disagreement"] > limit for each in told]
    capsys.readouterr()
    assert main(["predict", str(run), *names, "--foreign"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if not line.startswith(" ")]
    assert all("like the training data" in line for line in lines)
    assert ["unlike the training data" in line for line in lines] == [each["foreign"] for each in told]
    assert "leave out --budget" in refused("predict", str(run), names[0], "--foreign", "--budget", "0.9", capsys=capsys)


def test_evaluate_measures_the_calibrated_probabilities_where_asked(run, tmp_path):
    def found(*more):
        file = tmp_path / "found.json"
        assert main(["evaluate", str(run), "--split", "validation", *more, "--json", str(file)]) == 0
        return json.loads(file.read_text())

    plain, calibrated = found(), found("--calibrated")
    fitted = kept_exits(run)
    assert calibrated["nll"] == pytest.approx(fitted.own[-1].nll, rel=1e-4)
    assert calibrated["ece"] == pytest.approx(fitted.own[-1].ece, abs=1e-4)
    assert plain["nll"] == pytest.approx(fitted.own[-1].nll_before, rel=1e-4)
    assert calibrated["block_top1"] == plain["block_top1"]
    assert calibrated["combined_top1"] == pytest.approx(100 * fitted.together[-1].right)


def test_exits_have_temperatures_of_their_own(run, capsys):
    assert main(["evaluate", str(run), "--budget", "0.9", "--calibrated"]) == 2
    assert "leave out --calibrated" in capsys.readouterr().err


def test_evaluate_says_that_a_run_is_not_calibrated(tmp_path, capsys):
    with without_reports():
        run = whole(tiny(), tmp_path / "run")
    assert main(["evaluate", str(run), "--calibrated"]) == 2
    assert f"blocklocal calibrate {run} does it" in capsys.readouterr().err


def test_predict_gives_the_calibrated_confidences(run, tmp_path, capsys):
    from PIL import Image

    pixels = torch.randint(0, 255, (8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    Image.fromarray(pixels.numpy()).save(tmp_path / "0.png")
    assert main(["predict", str(run), str(tmp_path / "0.png"), "--output", str(tmp_path / "said.csv")]) == 0
    with (tmp_path / "said.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    _, facts, network = load_network(run, None, "cpu")
    x = normalise(pixels.view(1, 1, 8, 8), facts)
    exits = kept_exits(run)
    for k, (logits, own) in enumerate(zip(network.eval().block_logits(x), exits.own, strict=True)):
        confidence = [value for name, value in row.items() if name.endswith(" confidence")][k]
        expected = (logits / own.temperature).softmax(-1).max().item()
        assert float(confidence) == pytest.approx(expected, rel=1e-4)
    assert float(row["confidence"]) == pytest.approx(expected, rel=1e-4)
    counted = sum(w * logits for w, logits in zip(exits.weights[-1], network.block_logits(x), strict=True))
    together = (counted / exits.together[-1].temperature).softmax(-1).max().item()
    assert float(row["ensemble confidence"]) == pytest.approx(together, rel=1e-4)
    assert f"calibrated as blocklocal calibrate {run} has fitted it" in capsys.readouterr().err
    streamed = ["--visit", "2", "--output", str(tmp_path / "streamed.csv")]
    assert main(["predict", str(run), str(tmp_path / "0.png"), *streamed]) == 0
    assert (tmp_path / "streamed.csv").read_text() == (tmp_path / "said.csv").read_text()


def refused(*command: str, capsys) -> str:
    capsys.readouterr()
    assert main(list(command)) == 2
    return capsys.readouterr().err


def test_what_is_missing_is_said(run, tmp_path, capsys):
    assert "give --budget or --risk, not both" in refused(
        "evaluate", str(run), "--budget", "0.5", "--risk", "0.1", capsys=capsys
    )
    assert "leave out --visit" in refused("evaluate", str(run), "--budget", "0.9", "--visit", "2", capsys=capsys)
    with without_reports():
        whole(tiny(validation=0), tmp_path / "bare")
    assert "is not calibrated yet: blocklocal calibrate" in refused(
        "evaluate", str(tmp_path / "bare"), "--risk", "0.1", capsys=capsys
    )
    assert "has no validation part" in refused("calibrate", str(tmp_path / "bare"), capsys=capsys)


def test_exits_of_another_checkpoint_are_refused(run, caplog):
    told = json.loads((run / EXITS).read_text())
    try:
        (run / EXITS).write_text(json.dumps({**told, "checkpoint": "step-00000001"}))
        with pytest.raises(InputError, match="were fitted for step-00000001, and step-"):
            exits_for(run, 0.9, None)
        assert run_temperatures(run) is None
        assert "was calibrated for step-00000001, and step-" in caplog.text
        (run / EXITS).write_text("{}")
        with pytest.raises(InputError, match=r"exits\.json"):
            exits_for(run, 0.9, None)
    finally:
        (run / EXITS).write_text(json.dumps(told))


def test_texts_and_tables_leave_early_too(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("BLOCKLOCAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts").mkdir()
    for i in range(60):
        (tmp_path / "texts" / f"{i}.txt").write_text(f"Text number {i}. It has {i + 1} words, or more, and ends. " * 9)
    size = ["--vocabulary", "270", "--length", "8", "--width", "16", "--model-options", "layers", "4", "--blocks", "2"]
    short = ["--epochs", "1", "--batch-size", "8", "--no-tensorboard", "--quiet"]
    assert main(["train", "--data", "texts", *size, *short, "--train-size", "64", "--output", "text"]) == 0
    assert main(["calibrate", "text"]) == 0
    assert main(["evaluate", "text", "--risk", "1"]) == 0
    assert "of the FLOPs" in capsys.readouterr().out
    rows = ["a,b,kind", *(f"{i % 7},{i % 5},{'yes' if i % 7 > 3 else 'no'}" for i in range(300))]
    (tmp_path / "table.csv").write_text("\n".join(rows) + "\n")
    table = ["--data", "table.csv", "--target", "kind", "--width", "16", "--blocks", "2", "--epochs", "3"]
    assert main(["train", *table, "--no-tensorboard", "--quiet", "--output", "table"]) == 0
    assert main(["calibrate", "table"]) == 0
    capsys.readouterr()
    assert main(["predict", "table", "table.csv", "--risk", "0.9"]) == 0
    assert "block" in capsys.readouterr().out.splitlines()[0].split(",")


def test_few_samples_and_a_temperature_at_the_edge_are_marked(run):
    from dataclasses import replace

    exits = kept_exits(run)
    names = ["a", "b", "c"]
    usual = "\n".join(calibration_lines(exits, names))
    assert "!" not in usual
    assert "are few" not in usual
    edge = replace(exits, samples=12, own=[replace(exits.own[0], temperature=64.0), *exits.own[1:]])
    told = "\n".join(calibration_lines(edge, names))
    assert "64.000!" in told
    assert "probabilities are not calibrated" in told
    assert "12 samples are few" in told
