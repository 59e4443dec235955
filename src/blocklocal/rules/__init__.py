"""Learning rules, by name: block-local and those it is compared with."""

import sys

from blocklocal._common.registry import import_all
from blocklocal.rules.base import RULES, Rule

import_all(sys.modules[__name__])

__all__ = ["RULES", "Rule"]
