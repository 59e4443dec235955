"""Oracle: the paper's Table 1 and the settings of a run."""

import json

import pytest
from reproduce_helpers import image_sets, tiny_job, use_jobs
from run_helpers import assert_refused, cli

from blocklocal.models import build_model
from blocklocal.runs.config import Config
from blocklocal.splitting import split
from experiments.runner import JobLaunch, reproduce
from experiments.table1 import METHODS, MODELS, SETS, Table1, published

pytestmark = pytest.mark.usefixtures("no_reports")

EVERY = ("backprop", "frozen", "feedback-alignment", "variational", "variational-neighbour", "evidence")


def test_the_quick_table_is_every_method_on_every_set_and_the_full_one_has_both_networks_and_three_seeds():
    quick, full = Table1().jobs("quick"), Table1().jobs("full")
    assert {(job.settings["set"], job.settings["method"]) for job in quick} == {(s, m) for s in SETS for m in METHODS}
    assert len(quick) == len(SETS) * len(METHODS)
    assert len(full) == len(MODELS) * len(SETS) * len(METHODS) * 3
    for jobs in (quick, full):
        assert len({job.name for job in jobs}) == len(jobs)
        assert all(Config().edit(**job.settings["changes"]) for job in jobs)
        json.dumps([job.settings for job in jobs])


def test_backprop_and_the_control_differ_from_the_other_methods_in_the_rule_alone():
    by_method = {job.settings["method"]: job.settings["changes"] for job in Table1().jobs("quick")}
    for method, changes in by_method.items():
        own = set(METHODS[method])
        assert {k: v for k, v in changes.items() if k not in own} == {
            k: v for k, v in by_method["backprop"].items() if k != "rule"
        }


@pytest.mark.parametrize(("model", "units"), [("resnet18", [2, 2, 2, 2]), ("resnet50", [4, 4, 4, 4])])
def test_the_cuts_are_those_nearest_to_the_papers(model, units):
    network = build_model(model, classes=10, channels=1, image_size=(28, 28), width=4, stem="large")
    names = [name for name, _ in network.units()]
    starts = [names.index(name.partition("–")[0]) for name in split(network, blocks=4).names]
    assert [b - a for a, b in zip(starts, [*starts[1:], len(names)], strict=True)] == units


def test_the_papers_block_local_figures_stand_beside_the_scope_they_were_measured_with():
    assert published("resnet18", "variational", "mnist") == (99.4, 100, 99.6)
    assert published("resnet50", "printed-eq8", "fashion-mnist") == (88.7, 99.0, 85.9)
    assert published("resnet18", "variational-neighbour", "cifar10") == (72.2, 93.0, 98.8)
    assert published("resnet50", "feedback-alignment", "cifar10") == (70.3, 92.0, 79.3)
    for method in ("variational", "printed-eq8", "evidence", "frozen"):
        assert published("resnet18", method, "cifar10") is None


def row(method: str, test: float, seed: int = 0, name: str = "mnist", **more) -> dict:
    common = {"model": "resnet18", "width": 16, "blocks": 4, "data": name, "train_size": 100, "epochs": 5}
    figures = {"test_top1": test, "test_top3": test + 1, "train_top1": test + 2, "test_ece": 0.1, "seconds": 1.0}
    return {
        "job": f"{method}{seed}",
        "set": name,
        "method": method,
        "rule": "x",
        "seed": seed,
        **common,
        **figures,
        **more,
    }


def test_a_line_has_the_papers_figures_ours_and_the_distance_to_backprop_and_control(tmp_path):
    rows = [row("backprop", 99.0), row("frozen", 90.0), row("variational", 94.0), row("variational", 96.0, seed=1)]
    table = Table1().write(rows, tmp_path)
    line = next(line for line in table.splitlines() if "variational" in line)
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[1:] == ["99.4 / 100 / 99.6", "95.0 ± 1.4", "96.0 ± 1.4", "97.0 ± 1.4", "-4.0", "+5.0"]
    assert "ResNet-18, MNIST" in table
    assert "2 seeds" not in table
    for name in ("table1.png", "table1.svg"):
        assert 0 < (tmp_path / name).stat().st_size < 1_000_000


def test_the_figure_is_the_same_bytes_for_the_same_rows(tmp_path):
    rows = [row(method, 90.0 + i, name=name) for name in SETS for i, method in enumerate(METHODS)]
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Table1().write(rows, tmp_path / folder)
    for name in ("table1.png", "table1.svg"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_an_unfinished_table_shows_what_there_is(tmp_path):
    table = Table1().write([row("evidence", 91.0, name="cifar10")], tmp_path)
    assert "CIFAR-10" in table
    assert "MNIST" not in table.replace("Fashion", "")
    assert "91.0" in table


def test_every_method_runs_and_the_command_prints_the_table(tmp_path, monkeypatch):
    sets = image_sets(tmp_path / "sets")
    use_jobs(monkeypatch, *[tiny_job(method, epochs=1) for method in METHODS])
    out = tmp_path / "out"
    said = cli("reproduce", "table1", "--data", sets, "--output", out, "--jobs", 1)
    assert said.status == 0, said.text
    rows = json.loads((out / "results.json").read_text())
    assert [row["method"] for row in rows] == list(METHODS)
    assert {row["method"]: row["scope"] for row in rows if row["scope"] == "neighbour"} == {
        "variational-neighbour": "neighbour",
        "evidence-neighbour": "neighbour",
    }
    assert all(row["threads"] == 1 and row["torch"] and row["seed"] == 0 for row in rows)
    assert (out / "results.md").read_text() in said.out
    listed = cli("reproduce", "table1", "--output", out, "--list")
    assert listed.out.count("done") == len(METHODS)


def test_bad_arguments_are_refused(tmp_path):
    assert_refused(cli("reproduce", "table2"), "unknown experiment 'table2'", "table1")
    assert_refused(cli("reproduce", "table1", "--size", "huge"), "unknown size 'huge'")
    assert_refused(cli("reproduce", "table1", "--only", "nothing", "--output", tmp_path / "o"), "no job of table1")
    nowhere = cli("reproduce", "table1", "--data", tmp_path / "no", "--output", tmp_path / "o", "--jobs", 1)
    assert_refused(nowhere, "there is no folder")


def test_the_threads_of_the_caller_are_left_as_they_were(tmp_path, monkeypatch):
    import torch

    use_jobs(monkeypatch, tiny_job(epochs=1))
    before = torch.get_num_threads()
    reproduce(
        "table1", "quick", tmp_path / "o", JobLaunch(data=image_sets(tmp_path / "s"), jobs=1, threads=2), say=print
    )
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("method", METHODS)
def test_every_method_computes_in_the_precision_of_the_full_size(tmp_path, monkeypatch, method):
    use_jobs(monkeypatch, tiny_job(method, epochs=1, precision="bfloat16"))
    sets = image_sets(tmp_path / "sets")
    rows = reproduce("table1", "full", tmp_path / "o", JobLaunch(data=sets, jobs=1), say=lambda line: None).rows
    assert rows[0]["device"] == "cpu"
    assert 0 <= rows[0]["test_top1"] <= 100
    assert rows[0]["test_nll"] > 0
