"""Block-local learning: networks trained as blocks that learn by themselves."""

from blocklocal.data import Batches, Images, ImageSet, load_images
from blocklocal.errors import InputError
from blocklocal.families import FAMILIES, Family, family
from blocklocal.models import MODELS, build_model
from blocklocal.network import BlockLocal, Prediction
from blocklocal.objectives import OBJECTIVES
from blocklocal.optim import Optimizer, adam, adamw, sgd
from blocklocal.rules import RULES
from blocklocal.settings import Learning
from blocklocal.splitting import Split, split
from blocklocal.training import Evaluation, Trainer, evaluate

__version__ = "0.1.0"

__all__ = [
    "FAMILIES",
    "MODELS",
    "OBJECTIVES",
    "RULES",
    "Batches",
    "BlockLocal",
    "Evaluation",
    "Family",
    "ImageSet",
    "Images",
    "InputError",
    "Learning",
    "Optimizer",
    "Prediction",
    "Split",
    "Trainer",
    "adam",
    "adamw",
    "build_model",
    "evaluate",
    "family",
    "load_images",
    "sgd",
    "split",
]
