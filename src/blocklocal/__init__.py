"""Block-local learning: networks trained as blocks that learn by themselves.

What the package offers is imported when it is first asked for (PEP 562): `import blocklocal`, and with it the command
line's help, is there at once, and torch is loaded by what needs it.
"""

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blocklocal._common.errors import InputError
    from blocklocal._common.message import Message
    from blocklocal.block.classes import balanced
    from blocklocal.block.gaussian_values import GaussianValues
    from blocklocal.block.objectives import OBJECTIVES
    from blocklocal.block.optim import Optimizer, adam, adamw, sgd
    from blocklocal.block.schedules import warmup_cosine
    from blocklocal.block.tokens import Tokens
    from blocklocal.block.values import Values
    from blocklocal.data import Batches, Images, ImageSet, load_images
    from blocklocal.exits import FittedExits, fit_exits, load_exits
    from blocklocal.families import FAMILIES, Family, family
    from blocklocal.models import MODELS, build_model
    from blocklocal.network.exits import EarlyPrediction, Exits
    from blocklocal.network.network import BlockLocal
    from blocklocal.network.prediction import Prediction
    from blocklocal.network.settings import Learning
    from blocklocal.rules import RULES
    from blocklocal.runs.load import load
    from blocklocal.splitting import Split, freeze, split
    from blocklocal.streaming import Streamed
    from blocklocal.training import (
        Callback,
        EarlyStopping,
        Evaluation,
        KeepBest,
        MLflow,
        TensorBoard,
        Trainer,
        WeightsAndBiases,
        evaluate,
        save,
    )

__version__ = "0.1.0"

__all__ = [
    "FAMILIES",
    "MODELS",
    "OBJECTIVES",
    "RULES",
    "Batches",
    "BlockLocal",
    "Callback",
    "EarlyPrediction",
    "EarlyStopping",
    "Evaluation",
    "Exits",
    "Family",
    "FittedExits",
    "GaussianValues",
    "ImageSet",
    "Images",
    "InputError",
    "KeepBest",
    "Learning",
    "MLflow",
    "Message",
    "Optimizer",
    "Prediction",
    "Split",
    "Streamed",
    "TensorBoard",
    "Tokens",
    "Trainer",
    "Values",
    "WeightsAndBiases",
    "adam",
    "adamw",
    "balanced",
    "build_model",
    "evaluate",
    "family",
    "fit_exits",
    "freeze",
    "load",
    "load_exits",
    "load_images",
    "save",
    "sgd",
    "split",
    "warmup_cosine",
]

_HOMES = {
    "data": ("Batches", "Images", "ImageSet", "load_images"),
    "_common.errors": ("InputError",),
    "_common.message": ("Message",),
    "families": ("FAMILIES", "Family", "family"),
    "models": ("MODELS", "build_model"),
    "exits": ("FittedExits", "fit_exits", "load_exits"),
    "network.exits": ("EarlyPrediction", "Exits"),
    "network.network": ("BlockLocal",),
    "network.prediction": ("Prediction",),
    "block.classes": ("balanced",),
    "block.objectives": ("OBJECTIVES",),
    "block.optim": ("Optimizer", "adam", "adamw", "sgd"),
    "block.schedules": ("warmup_cosine",),
    "block.tokens": ("Tokens",),
    "block.gaussian_values": ("GaussianValues",),
    "block.values": ("Values",),
    "rules": ("RULES",),
    "network.settings": ("Learning",),
    "splitting": ("Split", "freeze", "split"),
    "streaming": ("Streamed",),
    "runs.load": ("load",),
    "training": (
        "Callback",
        "EarlyStopping",
        "Evaluation",
        "KeepBest",
        "MLflow",
        "TensorBoard",
        "Trainer",
        "WeightsAndBiases",
        "evaluate",
        "save",
    ),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """An exported name from its home, or one of the package's own modules; kept here, so that it is asked for once."""
    if name in _HOME:
        found = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    elif name.isidentifier() and name[0] != "_" and importlib.util.find_spec(f"{__name__}.{name}") is not None:
        found = importlib.import_module(f"{__name__}.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__} - {"Any", "TYPE_CHECKING", "importlib"})
