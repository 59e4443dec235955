"""Oracle: the settings of a run. What is compared differs in the rule alone, and nothing is trained twice."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from reproduce_helpers import image_sets, timeless
from run_helpers import assert_refused, cli

from blocklocal._common.errors import InputError
from blocklocal.models import build_model
from blocklocal.runs.config import Config
from blocklocal.splitting import split
from experiments import accuracy
from experiments.accuracy import METHODS, SIZES, WHOLE, Accuracy, Group, Network, configuration
from experiments.experiment import Job
from experiments.runner import JobLaunch, choose, reproduce

pytestmark = pytest.mark.usefixtures("no_reports")

TINY = {"validation": 3, "batch_size": 4, "epochs": 2, "threads": 1, "precision": "float32"}


def resolved(job: Job) -> tuple[str, Config]:
    return job.settings["set"], configuration(job, job.settings["set"])


def tiny(name: str, *lines: tuple[str, int], seeds: tuple[int, ...] = (0,), **changes) -> Group:
    """A group of MLPs of width 4 on a dozen pictures."""
    return Group(name, ("mnist",), (Network("mlp", lines, {"width": 4}),), {**TINY, **changes}, seeds)


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    return lambda *groups: monkeypatch.setitem(accuracy.SIZES, "quick", groups)


@pytest.mark.parametrize("size", SIZES)
def test_names_tell_jobs_apart_and_settings_are_those_of_a_run(size):
    jobs = Accuracy().jobs(size)
    assert len({job.name for job in jobs}) == len(jobs)
    assert {job.name.partition("-")[0] for job in jobs} == {group.name for group in SIZES[size]}
    for job in jobs:
        assert json.loads(json.dumps(job.settings)) == job.settings
        assert resolved(job)[1].data.validation == 5_000


@pytest.mark.parametrize("size", SIZES)
def test_every_line_is_trained_once(size):
    jobs = [resolved(job) for job in Accuracy().jobs(size)]
    assert all(jobs.count(each) == 1 for each in jobs)


@pytest.mark.parametrize("size", SIZES)
def test_a_control_has_the_cuts_and_the_training_of_its_block_local_line(size):
    jobs = Accuracy().jobs(size)
    for job in jobs:
        if job.settings["method"] not in ("block-local", "neighbour"):
            continue
        alike = {key: job.settings[key] for key in ("group", "set", "model", "seed", "blocks")}
        (control,) = [other for other in jobs if {**other.settings, **alike, "method": "frozen"} == other.settings]
        ours, theirs = configuration(job, "x"), configuration(control, "x")
        assert (theirs.model, theirs.data, theirs.machine) == (ours.model, ours.data, ours.machine)


@pytest.mark.parametrize("size", SIZES)
def test_what_learns_end_to_end_is_one_block_trained_like_the_others(size):
    for group in SIZES[size]:
        jobs = list(group.jobs())
        assert len({(c.data, c.machine.precision, c.optimisation.epochs) for _, c in map(resolved, jobs)}) == len(
            group.sets
        )
        for job in jobs:
            assert (job.settings["blocks"] == 1) == (job.settings["method"] in WHOLE)


@pytest.mark.parametrize(
    ("network", "images"), [(n, group.sets[0]) for groups in SIZES.values() for group in groups for n in group.networks]
)
def test_every_network_can_be_cut_as_often_as_asked(network, images):
    channels, side = (3, 32) if images == "cifar10" else (1, 28)
    options = network.changes.get("model_options", {})
    model = build_model(network.model, classes=10, channels=channels, image_size=(side, side), width=2, **options)
    for _, blocks in network.lines:
        assert len(split(model, blocks).blocks) == blocks


def test_every_method_runs_in_the_precision_of_the_full_size_and_the_command_prints_the_tables(tmp_path, use):
    lines = [(method, 1 if method in WHOLE else 4) for method in METHODS]
    use(tiny("proxy", *lines, epochs=1, precision="bfloat16"))
    out, sets = tmp_path / "out", image_sets(tmp_path / "sets")
    said = cli("reproduce", "accuracy", "--data", sets, "--output", out, "--jobs", 1)
    assert said.status == 0, said.text
    rows = json.loads((out / "results.json").read_text())
    assert {row["method"] for row in rows} == set(METHODS)
    assert all(row["validation_size"] == 3 and 0 <= row["validation_top1"] <= 100 for row in rows)
    assert all(row["test_nll"] > 0 for row in rows)
    assert {row["method"]: row["rule"] for row in rows}["predsim"] == "greedy"
    assert (out / "results.md").read_text() in said.out
    assert (out / "accuracy.png").is_file()


def test_a_run_that_was_stopped_ends_as_the_uninterrupted_one(tmp_path, use, monkeypatch):
    use(tiny("proxy", ("block-local", 4)))
    launch = JobLaunch(data=image_sets(tmp_path / "sets"), jobs=1)

    def run(folder: Path):
        return reproduce("accuracy", "quick", folder, launch, say=lambda line: None)

    whole = run(tmp_path / "whole")
    ask, stops = Accuracy.run, iter([False, False, True])

    def stopped_once(self, job, place):
        return ask(self, job, replace(place, should_stop=lambda: next(stops, False)))

    monkeypatch.setattr(Accuracy, "run", stopped_once)
    stopped = run(tmp_path / "out")
    assert stopped.left == [row["job"] for row in whole.rows]
    assert list((tmp_path / "out").glob("jobs/*/run/checkpoints/step-*"))
    assert timeless(run(tmp_path / "out").rows) == timeless(whole.rows)


def test_a_group_is_chosen_by_its_name_and_an_unknown_one_says_which_there_are(tmp_path):
    every = choose("accuracy", "quick")
    chosen = choose("accuracy", "quick", ["rules", "grey-mnist"])
    assert chosen == [job for job in every if job.name.startswith(("rules-", "grey-mnist-"))]
    assert 0 < len(chosen) < len(every)
    assert choose("accuracy", "quick", ["rules", "proxy-*-seed0"])[0].name.startswith("proxy-")
    for only in (["gray"], ["rules", "gray"]):
        with pytest.raises(
            InputError, match=r"is called gray; there are .* begin with proxy, rules, grey, longer\. List"
        ):
            choose("accuracy", "quick", only)
    assert_refused(
        cli("reproduce", "accuracy", "--only", "gray", "--output", tmp_path / "o"), "proxy, rules, grey, longer"
    )


def test_a_name_that_another_begins_with_is_that_job_alone(monkeypatch):
    jobs = [Job("a-1"), Job("a-1-long"), Job("b-1")]
    monkeypatch.setattr(Accuracy, "jobs", lambda self, size: jobs)
    assert choose("accuracy", "quick", ["a-1"]) == jobs[:1]
    assert choose("accuracy", "quick", ["a"]) == jobs[:2]
