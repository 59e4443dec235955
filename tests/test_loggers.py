"""Loggers: what reaches them is the record of every epoch. The real libraries, offline, where they are installed."""

import json
import sys
import types

import pytest
from rule_helpers import data, network
from run_helpers import train

import blocklocal as bl
from blocklocal import InputError, MLflow, TensorBoard, Trainer, WeightsAndBiases
from blocklocal.training.loggers import scalars

BATCHES = [data(seed=seed) for seed in range(2)]
RECORD = {"epoch": 1, "step": 2, "loss": [1.0, None], "validation_top1": [None, 50.0], "lr": 0.1}


class Calls:
    """Stands for wandb or mlflow: writes down what is called."""

    def __init__(self):
        self.said = []

    def __getattr__(self, name):
        def call(*args, **kwargs):
            self.said.append((name, args, kwargs))
            return None if name == "active_run" else self

        return call


@pytest.fixture
def calls(monkeypatch):
    stand_in = Calls()
    known = {"wandb": ["init"], "mlflow": ["active_run", "start_run", "log_params", "log_metrics", "end_run"]}
    for name, functions in known.items():
        module = types.ModuleType(name)
        vars(module).update({function: getattr(stand_in, function) for function in functions})
        monkeypatch.setitem(sys.modules, name, module)
    return stand_in.said


def fit(*callbacks, epochs=2):
    return Trainer(network("mlp"), epochs=epochs, callbacks=callbacks).fit(BATCHES)


def test_scalars_are_the_numbers_of_a_record_by_block():
    assert scalars(RECORD) == {"loss/block-1": 1.0, "validation_top1/block-2": 50.0, "lr": 0.1}


def test_wandb_gets_every_epoch_and_ends_its_run(calls):
    records = fit(WeightsAndBiases(project="mine"))
    assert [name for name, _, _ in calls] == ["init", "log", "log", "finish"]
    assert calls[0][2] == {"project": "mine"}
    for (_, args, kwargs), record in zip(calls[1:3], records, strict=True):
        assert args[0] == {"epoch": record["epoch"], **scalars(record)}
        assert kwargs == {"step": record["step"]}
    assert calls[3][2] == {"exit_code": 0}


def test_mlflow_gets_every_epoch_and_ends_its_run(calls):
    records = fit(MLflow({"lr": 0.1}, run_name="mine"))
    names = ["active_run", "start_run", "log_params", "log_metrics", "log_metrics", "end_run"]
    assert [name for name, _, _ in calls] == names
    assert [args[0] for name, args, _ in calls if name == "log_metrics"] == [scalars(record) for record in records]
    assert calls[-1][1] == ("FINISHED",)


def test_a_training_that_fails_is_marked_as_failed(calls):
    class Fails(bl.Callback):
        def epoch(self, trainer, record):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fit(WeightsAndBiases(), MLflow(), Fails())
    assert ("finish", (), {"exit_code": 1}) in calls
    assert ("end_run", ("FAILED",), {}) in calls


def test_a_wandb_run_that_is_given_is_not_ended():
    own = Calls()
    fit(WeightsAndBiases(own))
    assert [name for name, _, _ in own.said] == ["log", "log"]


@pytest.mark.parametrize(("kind", "name"), [(WeightsAndBiases, "wandb"), (MLflow, "mlflow")])
def test_a_library_that_is_not_there_is_named_with_what_to_install(monkeypatch, kind, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=f"pip install {name}"):
        kind()


def test_a_run_sends_its_settings_and_epochs(tmp_path, calls):
    assert train(tmp_path, "--loggers", "wandb", "mlflow").status == 0
    names = [name for name, _, _ in calls]
    assert names.count("log") == names.count("log_metrics") == 2
    assert next(kwargs for name, _, kwargs in calls if name == "init")["config"]["width"] == 4


def test_an_unknown_logger_is_refused(tmp_path):
    said = train(tmp_path, "--loggers", "wandbb")
    assert said.status == 2
    assert "wandb" in said.text


def test_tensorboard_gets_every_epoch(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoard(tmp_path)
    records = fit(logger)
    logger.close()
    found = EventAccumulator(str(tmp_path)).Reload()
    assert [each.value for each in found.Scalars("loss/block-1")] == pytest.approx([r["loss"][0] for r in records])
    assert [each.step for each in found.Scalars("lr")] == [r["step"] for r in records]


def test_the_real_wandb_takes_them_offline(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_SILENT", "true")
    fit(WeightsAndBiases(project="tests", mode="offline", dir=str(tmp_path)))
    assert wandb.run is None
    own = wandb.init(project="tests", mode="offline", dir=str(tmp_path))
    fit(WeightsAndBiases(own))
    assert wandb.run is own
    own.finish()
    assert len(list(tmp_path.rglob("*.wandb"))) == 2


def test_the_real_mlflow_takes_them_into_a_folder(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    records = fit(MLflow({"lr": 0.1}, run_name="mine"))
    (run,) = mlflow.MlflowClient().search_runs(["0"])
    assert (run.info.status, run.data.params) == ("FINISHED", {"lr": "0.1"})
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "loss/block-1")
    assert [each.value for each in history] == pytest.approx([r["loss"][0] for r in records])
    assert json.loads(json.dumps(run.data.metrics))["lr"] == records[-1]["lr"]
