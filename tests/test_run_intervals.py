"""Runs that predict values with a variance: trained, calibrated and asked from the command line."""

import csv
import json

import numpy as np
import pytest
import torch
from scipy.stats import norm

from blocklocal.cli.main import main
from blocklocal.exits.intervals import INTERVALS, intervals_of
from blocklocal.report.intervals_section import intervals_section
from blocklocal.runs.looking import load_network
from blocklocal.runs.sets import evaluation_batches, load_data
from blocklocal.uncertainty.coverages import COVERAGES

ROWS = 1200


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    draw = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("table") / "table.csv"
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["a", "b", "height", "weight"])
        for a, b in draw.uniform(size=(ROWS, 2)):
            noise = (1.0 if b > 0.5 else 0.1) * draw.normal()
            out.writerow([f"{a:.4f}", f"{b:.4f}", f"{100 + 10 * a + noise:.4f}", f"{a * b:.4f}"])
    return path


def trained(table, folder, *flags):
    given = ["--data", table, "--target", "height", "weight", "--width", "16", "--blocks", "2", "--epochs", "3"]
    assert main(["train", *map(str, given), "--validation", "300", "--quiet", "--output", str(folder), *flags]) == 0
    return folder


@pytest.fixture(scope="module")
def run(table, tmp_path_factory):
    folder = trained(table, tmp_path_factory.mktemp("run") / "run", "--variance")
    assert main(["calibrate", str(folder)]) == 0
    return folder


def validation(run):
    config, facts, network = load_network(run, None, "cpu")
    return network, list(evaluation_batches(config, load_data(config, run).validation, facts, torch.device("cpu")))


def test_calibrate_makes_variances_fit_and_intervals_hold_what_is_asked(run, capsys):
    assert main(["calibrate", str(run)]) == 0
    said = capsys.readouterr().out
    found = intervals_of(run)
    assert "Fitted and measured on 300 validation samples." in said
    assert str(run / INTERVALS) in said
    network, batches = validation(run)
    y = torch.cat([y for _, y in batches])
    predictions = [network.predict(x, temperatures=found.temperatures) for x, _ in batches]
    for k, own in enumerate([*found.own, found.together]):
        each = [p.blocks[k] if k < 2 else p.combined for p in predictions]
        error = torch.cat([p.values for p in each]) - y
        variance = torch.cat([p.variance for p in each])
        assert (error.square() / variance).mean().item() == pytest.approx(1, rel=1e-3)
        assert own.nll <= own.nll_before
        assert f"{own.nll_before:.4f} → {own.nll:.4f}" in said
        for coverage, share in zip(COVERAGES, own.shares, strict=True):
            inside = error.abs() <= norm.ppf((1 + coverage) / 2) * variance.sqrt()
            assert share == pytest.approx(100 * inside.double().mean().item(), abs=0.2)  # a value at the very edge
    values, std = (torch.cat([getattr(p, name) for p in predictions]) for name in ("values", "variance"))
    low, high = found.at(0.9)(values, std.sqrt())
    assert ((low <= y) & (y <= high)).double().mean(0).tolist() == pytest.approx([271 / 300] * 2, abs=1e-6)


def test_the_report_shows_what_is_inside_and_how_wide_the_intervals_are(run):
    section, found = intervals_section(run), intervals_of(run)
    page = (run / "report.html").read_text()
    assert '<a href="#intervals">' in page
    assert page.count("values their Gaussian holds, as trained") == 2  # the caption, and what is read aloud
    assert [row[0] for row in section["rows"]] == [*found.blocks, "ensemble"]
    assert section["headings"] == ["block", "RMSE", "temperature", "NLL", "inside 90 %"]
    for row in section["rows"]:
        assert f"<td>{row[-1]}</td>" in page
    assert len(section["pictures"]) == 3
    assert all(name in section["pictures"][2]["svg"] for name in ("height", "weight"))
    assert {len(ends) for ends in found.limits} == {2}


def test_predict_says_the_deviation_and_the_ends_of_the_interval(run, table, tmp_path, capsys):
    rows = tmp_path / "rows.csv"
    rows.write_text("a,b\n0.5,0.9\n0.5,0.1\n")
    assert main(["predict", str(run), str(rows), "--coverage", "0.9", "--output", str(tmp_path / "out.csv")]) == 0
    with (tmp_path / "out.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    limits = intervals_of(run).at(0.9).limits
    for row in found:
        for name, limit in zip(("height", "weight"), limits.tolist(), strict=True):
            middle, std = float(row[name]), float(row[f"{name} std"])
            assert float(row[f"{name} low"]) == pytest.approx(middle - limit * std, rel=1e-4, abs=1e-4)
            assert float(row[f"{name} high"]) == pytest.approx(middle + limit * std, rel=1e-4, abs=1e-4)
    assert "ensemble height std" in found[0]
    assert main(["predict", str(run), str(rows), "--output", str(tmp_path / "out.json")]) == 0
    assert "height std" in json.loads((tmp_path / "out.json").read_text())["predictions"][0]


def test_evaluate_measures_the_intervals_of_every_value(run, tmp_path, capsys):
    config, facts, network = load_network(run, None, "cpu")
    batches = list(evaluation_batches(config, load_data(config, run).test, facts, torch.device("cpu")))
    said = [network.predict(x, temperatures=intervals_of(run).temperatures) for x, _ in batches]
    values, std = torch.cat([p.values for p in said]), torch.cat([p.variance for p in said]).sqrt()
    y, half = torch.cat([y for _, y in batches]), intervals_of(run).at(0.9).limits * std
    inside = 100 * ((y - values).abs() <= half).double().mean(0)
    capsys.readouterr()
    assert main(["evaluate", str(run), "--coverage", "0.9", "--json", str(tmp_path / "found.json")]) == 0
    out = capsys.readouterr().out
    for k, name in enumerate(("height", "weight")):
        width = 2 * half[:, k].mean().item()
        line = f"{inside[k]:.2f} % of the intervals hold the true {name}; their mean width is {width:.4g}"
        assert line in out, line
    assert json.loads((tmp_path / "found.json").read_text())["sureness"]["samples"] == len(y)


def test_evaluate_and_report_name_the_likelihood(run, capsys):
    assert main(["evaluate", str(run)]) == 0
    said = capsys.readouterr().out
    assert "NLL" in said
    assert "inside 90 %" in said
    assert main(["report", str(run)]) == 0


def test_values_without_a_variance_have_intervals_of_one_width(table, tmp_path, capsys):
    run = trained(table, tmp_path / "run")
    rows = tmp_path / "rows.csv"
    rows.write_text("a,b\n0.5,0.9\n0.1,0.1\n")
    assert main(["predict", str(run), str(rows), "--coverage", "0.9"]) == 2
    assert f"blocklocal calibrate {run} fits them" in capsys.readouterr().err
    assert main(["calibrate", str(run)]) == 0
    assert "temperature" not in capsys.readouterr().out
    section = intervals_section(run)
    assert section["headings"] == ["block", "RMSE"]
    assert len(section["pictures"]) == 1
    assert main(["predict", str(run), str(rows), "--coverage", "0.9", "--output", str(tmp_path / "out.csv")]) == 0
    with (tmp_path / "out.csv").open(newline="") as file:
        widths = [float(row["height high"]) - float(row["height low"]) for row in csv.DictReader(file)]
    assert widths[0] == pytest.approx(widths[1], rel=1e-4)


@pytest.mark.parametrize(
    ("coverage", "words"), [("0.3", "0.50, 0.51, … or 0.99, not 0.3"), ("0.905", "0.50, 0.51, … or 0.99, not 0.905")]
)
def test_a_coverage_that_is_not_kept_is_refused(run, table, capsys, coverage, words):
    assert main(["predict", str(run), str(table), "--coverage", coverage]) == 2
    assert words in capsys.readouterr().err


def test_too_few_samples_are_named(table, tmp_path, capsys):
    given = ["--data", table, "--target", "height", "--width", "8", "--blocks", "2", "--epochs", "1", "--variance"]
    run = tmp_path / "run"
    assert main(["train", *map(str, given), "--validation", "10", "--quiet", "--output", str(run)]) == 0
    assert main(["calibrate", str(run)]) == 0
    assert "--coverage 0.95: too few validation samples" in capsys.readouterr().out
    assert main(["predict", str(run), str(table), "--coverage", "0.95"]) == 2
    said = capsys.readouterr().err
    assert "10 validation samples are too few" in said
    assert "at least 19 are needed" in said


@pytest.mark.parametrize("flag", ["--abstain", "--budget"])
def test_what_needs_probabilities_is_refused(run, table, capsys, flag):
    assert main(["predict", str(run), str(table), flag, "0.5"]) == 2
    assert "predicts values" in capsys.readouterr().err


@pytest.mark.parametrize("change", ["limits", "own", "temperature", "nll", "samples"])
def test_figures_that_cannot_be_are_told(run, capsys, change):
    told = json.loads((run / INTERVALS).read_text())
    broken = json.loads(json.dumps(told))
    if change in ("temperature", "nll"):
        broken["own"][0][change] = None
    else:
        broken[change] = {"limits": [[-1, 1]] * 50, "own": [None, None], "samples": -5}[change]
    try:
        (run / INTERVALS).write_text(json.dumps(broken))
        assert main(["report", str(run)]) == 2
        assert "intervals are damaged" in capsys.readouterr().err
    finally:
        (run / INTERVALS).write_text(json.dumps(told))


def test_figures_that_are_missing_are_told(run, table, capsys):
    told = json.loads((run / INTERVALS).read_text())
    try:
        (run / INTERVALS).write_text(json.dumps({**told, "limits": told["limits"][:3]}))
        assert main(["predict", str(run), str(table)]) == 2
        assert "intervals are damaged" in capsys.readouterr().err
    finally:
        (run / INTERVALS).write_text(json.dumps(told))


def test_a_variance_of_classes_is_refused(tmp_path, capsys):
    assert main(["train", "--data", "digits", "--variance", "--output", str(tmp_path / "run")]) == 2
    assert "--variance is for values" in capsys.readouterr().err
