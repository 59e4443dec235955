"""Callbacks that send the figures of every epoch to TensorBoard, Weights & Biases or MLflow."""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blocklocal._common.errors import InputError
from blocklocal._common.extras import needs
from blocklocal.training.callbacks import Callback, Record

if TYPE_CHECKING:
    from blocklocal.training.loop import Trainer

PER_BLOCK = ("loss", "message")
ONE_NUMBER = ("lr", "images_per_second")


def scalars(record: Record) -> dict[str, float]:
    """The numbers of an epoch's record by name: `loss/block-1`, …, `validation_top1/block-4`, `lr`."""
    found = {
        f"{name}/block-{k + 1}": value
        for name in record
        if name in PER_BLOCK or name.startswith(("train_", "validation_"))
        for k, value in enumerate(record.get(name) or ())
        if value is not None
    }
    own = {f"metrics/{name}": value for name, value in record.get("metrics", {}).items()}
    return found | own | {name: record[name] for name in ONE_NUMBER if record.get(name) is not None}


class TensorBoard(Callback):
    """Scalars per block, one point per epoch.

    Args:
        folder: where TensorBoard looks for them.
    """

    @needs("report")
    def __init__(self, folder: Path | str):
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder))

    def epoch(self, trainer: "Trainer", record: Record) -> None:
        for name, value in scalars(record).items():
            self.writer.add_scalar(name, value, record["step"])
        self.writer.flush()

    def close(self) -> None:
        """End the writer's thread."""
        self.writer.close()


class WeightsAndBiases(Callback):
    """A run of Weights & Biases (wandb), with the figures of every epoch.

        Trainer(network, callbacks=[WeightsAndBiases(project="digits")]).fit(train)

    Args:
        run: a run that you have started (`wandb.init`), which is not ended; default: one is started and ended.
        settings: for `wandb.init`, such as project="digits", mode="offline", config={…}.

    Raises:
        InputError: wandb is not installed.
    """

    def __init__(self, run: Any = None, **settings: Any):
        self._wandb = None if run is not None else _imported("wandb")
        self.run, self.settings = run, settings

    def start(self, trainer: "Trainer") -> None:
        if self._wandb is not None:
            self.run = self._wandb.init(**self.settings)

    def epoch(self, trainer: "Trainer", record: Record) -> None:
        self.run.log({"epoch": record["epoch"], **scalars(record)}, step=record["step"])

    def end(self, trainer: "Trainer", error: BaseException | None) -> None:
        if self._wandb is not None:
            self.run.finish(exit_code=0 if error is None else 1)


class MLflow(Callback):
    """A run of MLflow, with the figures of every epoch.

        Trainer(network, callbacks=[MLflow(run_name="digits")]).fit(train)

    Where a run is active already (`mlflow.start_run`), figures go there, and it is not ended.

    Args:
        parameters: written down at the start.
        settings: for `mlflow.start_run`, such as run_name="digits".

    Raises:
        InputError: MLflow is not installed.
    """

    def __init__(self, parameters: dict[str, Any] | None = None, **settings: Any):
        self._mlflow = _imported("mlflow")
        self.parameters, self.settings, self._own = parameters or {}, settings, False

    def start(self, trainer: "Trainer") -> None:
        self._own = self._mlflow.active_run() is None
        if self._own:
            self._mlflow.start_run(**self.settings)
        if self.parameters:
            self._mlflow.log_params(self.parameters)

    def epoch(self, trainer: "Trainer", record: Record) -> None:
        self._mlflow.log_metrics(scalars(record), step=record["step"])

    def end(self, trainer: "Trainer", error: BaseException | None) -> None:
        if self._own:
            self._mlflow.end_run("FINISHED" if error is None else "FAILED")


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(f"this needs {name}, which cannot be imported ({error}): pip install {name}.") from error
