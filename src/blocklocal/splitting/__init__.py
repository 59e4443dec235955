"""Cutting a network into blocks."""

from blocklocal.splitting.costs import piece_costs
from blocklocal.splitting.partition import partition
from blocklocal.splitting.split import Split, split

__all__ = ["Split", "partition", "piece_costs", "split"]
