"""What a run does where a setting says auto: the usual model, optimiser and learning rate for such data."""

from blocklocal.adapters import is_named
from blocklocal.runs.config import Config
from blocklocal.runs.facts import DatasetInfo

MODELS = {"images": "resnet18", "table": "mlp", "series": "conv1d", "text": "decoder"}  # by what the data are
PIXELS = "unet"  # of images with a class per pixel


def suited(config: Config, facts: DatasetInfo) -> Config:
    """The settings with a name and a number for every `auto`; what was given stays."""
    model = config.model.model
    if model == "auto":
        model = PIXELS if facts.predicts_pixels else MODELS[facts.kind]
    classifies_images = facts.kind == "images" and not facts.predicts_pixels
    if classifies_images:
        settled = config.optimisation.settled("adamw" if is_named(model) else "sgd")
    else:
        settled = config.optimisation.settled("adamw", adamw=3e-3)
    return config.edit(model=model, optimizer=settled.optimizer, lr=settled.lr)
