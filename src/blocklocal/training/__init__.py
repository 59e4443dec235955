"""Training: the loop, what watches it, and the run folder it writes."""

from blocklocal.training.best import EarlyStopping, KeepBest
from blocklocal.training.callbacks import Callback
from blocklocal.training.evaluation import Evaluation, evaluate
from blocklocal.training.loggers import MLflow, TensorBoard, WeightsAndBiases
from blocklocal.training.loop import Trainer
from blocklocal.training.saving import load, save

__all__ = [
    "Callback",
    "EarlyStopping",
    "Evaluation",
    "KeepBest",
    "MLflow",
    "TensorBoard",
    "Trainer",
    "WeightsAndBiases",
    "evaluate",
    "load",
    "save",
]
