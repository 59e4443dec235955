"""Networks to train, found by name. A model is an ordinary nn.Module that also lists its `units()`; see `base`."""

import sys

from blocklocal._common.registry import import_all
from blocklocal.models.base import MODELS, UnitModel, build_model, check_input

import_all(sys.modules[__name__])

__all__ = ["MODELS", "UnitModel", "build_model", "check_input"]
