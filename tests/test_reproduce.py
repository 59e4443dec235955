"""Oracle: what was measured already. Nothing is measured twice, nothing finished is lost, and pieces make the whole."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from reproduce_helpers import Counting, image_sets, timeless, tiny_job, use_jobs

from blocklocal._common.errors import InputError, Interrupted
from blocklocal.training.tally import NotFinite
from experiments.experiment import EXPERIMENTS, Job
from experiments.runner import JobLaunch, choose, reproduce
from experiments.sets import find_set
from experiments.store import Store

pytestmark = pytest.mark.usefixtures("no_reports")

JOBS = [Job(f"job-{seed}", {"seed": seed}) for seed in range(3)]
ONE = JobLaunch(jobs=1)


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Counting:
    experiment = Counting(*JOBS)
    monkeypatch.setitem(EXPERIMENTS.items, "counting", experiment)
    return experiment


def run(folder: Path, launch: JobLaunch = ONE):
    return reproduce("counting", "quick", folder, launch, say=lambda line: None)


def test_a_finished_job_is_not_measured_again(tmp_path, counting):
    first = run(tmp_path / "out")
    assert counting.ran == ["job-0", "job-1", "job-2"]
    assert [row["value"] for row in first.rows] == [0, 1, 2]
    again = run(tmp_path / "out")
    assert counting.ran == ["job-0", "job-1", "job-2"]
    assert again.rows == first.rows


def test_a_piece_of_the_work_leaves_the_rest_for_later(tmp_path, counting):
    piece = run(tmp_path / "out", JobLaunch(jobs=1, only=("job-[02]",)))
    assert counting.ran == ["job-0", "job-2"]
    assert piece.left == []
    assert run(tmp_path / "out").markdown == "3 rows\n"
    assert counting.ran == ["job-0", "job-2", "job-1"]


def test_what_was_measured_elsewhere_is_taken_over(tmp_path, counting):
    run(tmp_path / "a", JobLaunch(jobs=1, only=("job-0",)))
    run(tmp_path / "b", JobLaunch(jobs=1, only=("job-1",)))
    merged = run(tmp_path / "c", JobLaunch(jobs=1, merge=(tmp_path / "a", tmp_path / "b")))
    assert counting.ran == ["job-0", "job-1", "job-2"]
    assert [row["job"] for row in merged.rows] == ["job-0", "job-1", "job-2"]


def test_a_row_that_is_there_is_not_replaced_by_a_merge(tmp_path, counting):
    run(tmp_path / "a")
    run(tmp_path / "b")
    path = tmp_path / "b" / "rows" / "job-0.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "value": "mine"}))
    assert run(tmp_path / "b", JobLaunch(jobs=1, merge=(tmp_path / "a",))).rows[0]["value"] == "mine"


def test_a_stop_keeps_what_is_finished_and_begins_nothing_new(tmp_path, counting, monkeypatch):
    def stop(place):
        raise Interrupted(place.folder)

    counting.listed = [JOBS[0], Job("job-1", {"seed": 1, "action": stop}), JOBS[2]]
    stopped = run(tmp_path / "out", JobLaunch(jobs=1, only=("job-0", "job-1")))
    assert [row["job"] for row in stopped.rows] == ["job-0"]
    assert stopped.left == ["job-1"]
    counting.listed = JOBS
    assert [row["job"] for row in run(tmp_path / "out").rows] == ["job-0", "job-1", "job-2"]


def test_after_the_given_minutes_no_job_is_begun(tmp_path, counting, monkeypatch):
    clock = iter([0.0, 0.0, 59.0, 61.0, 61.0, 61.0])
    monkeypatch.setattr("experiments.runner.time.monotonic", lambda: next(clock))
    assert run(tmp_path / "out", JobLaunch(jobs=1, minutes=1)).left == ["job-2"]


def test_a_job_that_diverges_is_named_and_the_others_go_on(tmp_path, counting):
    def diverge(place):
        raise NotFinite("the loss of block 2 became nan at step 7")

    counting.listed = [Job("job-0", {"seed": 0, "action": diverge}), *JOBS[1:]]
    report = run(tmp_path / "out")
    assert "block 2" in report.failed["job-0"]
    assert [row["job"] for row in report.rows] == ["job-1", "job-2"]


def test_rows_of_other_settings_are_refused_and_kept(tmp_path, counting):
    run(tmp_path / "out")
    counting.listed = [replace(JOBS[0], settings={"seed": 9}), *JOBS[1:]]
    with pytest.raises(InputError, match=r"other settings: seed \(0 there, 9 now\)"):
        run(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "rows" / "job-0.json").read_text())["value"] == 0


def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path, counting):
    Store(tmp_path / "full", "counting", "full").open()
    with pytest.raises(InputError, match="holds counting at size full, not counting at size quick"):
        run(tmp_path / "full")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("text")
    with pytest.raises(InputError, match="holds something else"):
        run(tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]
    with pytest.raises(InputError, match="cannot be merged"):
        run(tmp_path / "new", JobLaunch(jobs=1, merge=(tmp_path / "mine",)))


def test_a_damaged_row_says_what_to_do(tmp_path, counting):
    run(tmp_path / "out")
    (tmp_path / "out" / "rows" / "job-1.json").write_text('{"value": ')
    with pytest.raises(InputError, match=r"job-1\.json is damaged.* Remove the file"):
        run(tmp_path / "out")


def test_unknown_names_say_which_there_are(counting):
    with pytest.raises(InputError, match="Did you mean 'quick'"):
        choose("counting", "quik")
    with pytest.raises(InputError, match="Did you mean 'counting'"):
        choose("countin", "quick")
    with pytest.raises(InputError, match="no job of counting at size quick is called job-7; there are 3"):
        choose("counting", "quick", ["job-7"])
    for wrong in ({"jobs": 0}, {"threads": 0}, {"minutes": -1.0}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            JobLaunch(**wrong)


# --- a real experiment


def test_a_job_stopped_at_any_step_ends_as_the_uninterrupted_one(tmp_path, monkeypatch):
    sets = image_sets(tmp_path / "sets")
    use_jobs(monkeypatch, tiny_job())
    launch = JobLaunch(data=sets, jobs=1)
    whole = reproduce("table1", "quick", tmp_path / "whole", launch, say=lambda line: None)
    stops = iter([False, False, False, True, *[False] * 20])  # before the job, then after every step
    monkeypatch.setattr("experiments.runner.StopSignals", lambda: Asked(stops))
    stopped = reproduce("table1", "quick", tmp_path / "out", launch, say=lambda line: None)
    assert stopped.left == ["mnist-mlp-evidence-seed0"]
    assert list((tmp_path / "out" / "jobs" / "mnist-mlp-evidence-seed0" / "run" / "checkpoints").glob("step-00000003"))
    resumed = reproduce("table1", "quick", tmp_path / "out", launch, say=lambda line: None)
    assert timeless(resumed.rows) == timeless(whole.rows)


class Asked:
    """Signals that a list answers for."""

    def __init__(self, answers):
        self.answers = answers

    @property
    def asked(self) -> bool:
        return next(self.answers)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None


def test_a_set_is_found_by_name_in_a_folder_or_on_the_hub(tmp_path):
    root = image_sets(tmp_path / "sets")
    assert find_set("fashion-mnist", root) == str(root / "fashion_mnist")
    assert find_set("cifar10", root) == str(root / "cifar10_jpeg")
    assert find_set("mnist", None) == "ylecun/mnist"
    with pytest.raises(InputError, match=r"unknown image set 'cifar'.*cifar10"):
        find_set("cifar", root)
    with pytest.raises(InputError, match="there is no folder"):
        find_set("mnist", tmp_path / "nowhere")
    (root / "cifar100").mkdir()
    assert find_set("cifar10", root) == str(root / "cifar10_jpeg")
    (root / "MNIST-b").mkdir()
    with pytest.raises(InputError, match=r"must hold one folder for mnist.*MNIST-b"):
        find_set("mnist", root)
