"""Cutting a network into blocks."""

from blocklocal.splitting.costs import piece_costs
from blocklocal.splitting.freezing import freeze
from blocklocal.splitting.partition import partition
from blocklocal.splitting.split import Split, split

__all__ = ["Split", "freeze", "partition", "piece_costs", "split"]
