"""The models of the library by what they read."""

from blocklocal.models import MODELS
from blocklocal.models.base import IMAGE, RANKS

IMAGE_MODELS = [name for name in MODELS.names() if IMAGE in RANKS.get(name, (IMAGE,))]
