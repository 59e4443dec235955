"""Oracle: the run folder. What a run leaves behind."""

import math
from pathlib import Path

import pytest
import torch
from run_helpers import (
    assert_same_run,
    cli,
    flags,
    metrics,
    summary,
    tiny,
    weights,
    without_reports,
)

from blocklocal._common.errors import InputError
from blocklocal.report.read import read_run
from blocklocal.runs.config import load_config
from blocklocal.runs.run import start_run
from blocklocal.training.checkpoint_folder import list_checkpoints

# fmt: off
KEYS = {
    "rule", "objective", "family", "scope", "readout", "model", "parameters", "blocks", "processes", "data",
    "train_size", "epochs", "seed", "threads", "device", "torch", "test_top1", "test_top3", "train_top1",
    "test_nll", "test_ece", "block_test_top1", "seconds", "images_per_second",
}
# fmt: on


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "run"
    start_run(tiny(tensorboard=True, readout=1), folder, quiet=True)
    return folder


# --- the files of a run


def test_the_summary_has_every_key_and_the_run_s_own_values(run):
    row = summary(run)
    assert set(row) >= KEYS
    expected = {"rule": "block-local", "objective": "evidence", "family": "rectified", "scope": "local", "readout": 1}
    expected |= {"model": "mlp", "blocks": 2, "processes": 1, "data": "digits", "train_size": 60, "epochs": 2}
    expected |= {"seed": 0, "threads": 1, "device": "cpu", "torch": torch.__version__}
    assert {key: row[key] for key in expected} == expected
    assert row["parameters"] == 64 * 4 + 4 + 4 + 2 * (16 + 4 + 4) + 4 * 10 + 10  # 64-4-4-4-10 with BatchNorm


def test_accuracies_are_percentages_of_whole_images(run):
    row = summary(run)
    images = {"test_top1": 30, "test_top3": 30, "train_top1": 30, "validation_top1": 20}
    for key, count in images.items():
        assert 0 <= row[key] <= 100
        assert row[key] * count / 100 == pytest.approx(round(row[key] * count / 100), abs=1e-9), key
    assert row["test_top3"] >= row["test_top1"]
    assert len(row["block_test_top1"]) == 2
    assert row["block_test_top1"][-1] == row["test_top1"]
    assert 0 <= row["test_ece"] <= 1
    assert row["test_nll"] > 0
    assert row["seconds"] > 0
    assert row["images_per_second"] == pytest.approx(2 * 60 / row["seconds"])


@pytest.mark.parametrize(
    ("rule", "objective", "absent"),
    [
        ("backprop", None, ("objective", "family", "scope", "readout", "reconstruction")),
        ("frozen", None, ("objective", "family", "readout")),
        ("greedy", "greedy", ()),
        ("target-projection", "projection", ()),
    ],
)
def test_a_key_that_does_not_apply_to_a_rule_is_null(tmp_path, rule, objective, absent):
    with without_reports():
        row = start_run(tiny(rule=rule, epochs=1), tmp_path / "run", quiet=True)
    assert set(row) >= KEYS
    assert row["objective"] == objective
    assert [row[key] for key in absent] == [None for _ in absent]


def test_metrics_are_one_finite_record_per_epoch_that_the_report_can_read(run):
    lines = [line for line in metrics(run) if line["event"] == "epoch"]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert [line["step"] for line in lines] == [3, 6]
    assert len(read_run(run).epochs) == 2
    for line in lines:
        for key in ("loss", "train_top1", "validation_top1", "message", "parts"):
            assert len(line[key]) == 2, key
        assert all(math.isfinite(loss) for loss in line["loss"])
        assert line["message"][1] is None  # the output block has no backward message
        assert sum(line["parts"][0].values()) == pytest.approx(line["loss"][0], rel=1e-5)
        assert line["seconds"] > 0
        assert line["images_per_second"] == pytest.approx(60 / line["seconds"])
    assert [line["train_top1"][0] * 60 / 100 % 1 for line in lines] == pytest.approx([0, 0], abs=1e-9)


def test_the_learning_rate_of_a_record_is_the_one_its_epoch_starts_with(tmp_path):
    with without_reports():
        start_run(tiny(schedule="cosine", lr=0.2), tmp_path / "run", quiet=True)
    rates = [line["lr"] for line in metrics(tmp_path / "run") if line["event"] == "epoch"]
    assert rates == pytest.approx([0.2, 0.1])  # half of the steps: half of the cosine


def test_the_saved_configuration_reproduces_the_run(run, tmp_path):
    assert load_config(run) == tiny(tensorboard=True, readout=1, optimizer="sgd", lr=0.1)
    again = cli("train", "--config", run / "config.json", "--output", tmp_path / "again", "--quiet")
    assert again.status == 0
    assert_same_run(tmp_path / "again", run)


def test_another_seed_is_another_run(run, tmp_path):
    with without_reports():
        start_run(tiny(readout=1, seed=1), tmp_path / "run", quiet=True)
    assert not torch.equal(
        *(weights(folder)["block-0/block.hidden1.linear.weight"] for folder in (tmp_path / "run", run))
    )


def test_tensorboard_events_hold_one_point_per_epoch(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    tags = events.Tags()["scalars"]
    assert {f"{name}/block-{k}" for name in ("loss", "train_top1", "validation_top1") for k in (1, 2)} <= set(tags)
    recorded = [line["loss"][0] for line in metrics(run) if line["event"] == "epoch"]
    points = events.Scalars("loss/block-1")
    assert [point.step for point in points] == [3, 6]
    assert [point.value for point in points] == pytest.approx(recorded)


def test_the_folder_holds_report_examples_and_two_checkpoints_and_nothing_half_written(run):
    present = {path.name for path in run.iterdir()}
    expected = {"config.json", "data.json", "metrics.jsonl", "summary.json", "examples.json", "report.html"}
    expected |= {"confusion.json"}
    assert present == expected | {"checkpoints", "tensorboard", "origin.json", ".lock"}
    assert [path.name for path in list_checkpoints(run / "checkpoints")] == ["step-00000003", "step-00000006"]
    assert [path for path in run.parent.iterdir() if path != run] == []


def test_an_existing_folder_is_never_overwritten(run, tmp_path):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    (tmp_path / "empty").mkdir()
    for folder in (run, tmp_path / "empty"):
        said = cli("train", *flags(), "--output", folder)
        assert said.status == 2
        assert "exists already" in said.text
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_bad_settings_are_refused_before_the_folder_is_made(tmp_path):
    for wrong in ({"augment": "crop,spin"}, {"model": "vgg8b"}, {"blocks": 9}, {"train_size": 5000}):
        with pytest.raises(InputError):
            start_run(tiny(**wrong), tmp_path / "run", quiet=True)
    assert list(tmp_path.iterdir()) == []


def test_without_a_validation_split_its_figures_are_null(tmp_path):
    row = start_run(tiny(validation=0, epochs=1), tmp_path / "run", quiet=True)
    assert row["validation_top1"] is None
    assert read_run(tmp_path / "run").epochs[0]["validation_top1"] == [None, None]


def test_a_block_without_a_loss_of_its_own_records_none(tmp_path):
    assert cli("train", *flags(rule="frozen", epochs=1), "--quiet", "--output", tmp_path / "run").status == 0
    (record,) = [line for line in metrics(tmp_path / "run") if line["event"] == "epoch"]
    assert record["loss"][:-1] == [None] * (len(record["loss"]) - 1)
    assert record["parts"][:-1] == [{}] * (len(record["loss"]) - 1)
    assert record["loss"][-1] > 0
