"""Exponential families of latent units, found by name. A new family is one new file in this package."""

import sys

from blocklocal._common.registry import import_all
from blocklocal.families.base import FAMILIES, Family, family

import_all(sys.modules[__name__])

__all__ = ["FAMILIES", "Family", "family"]
