"""Cutting a network into blocks."""

from blocklocal.splitting.costs import unit_costs
from blocklocal.splitting.partition import partition
from blocklocal.splitting.split import Split, split

__all__ = ["Split", "partition", "split", "unit_costs"]
