"""Blocks in several processes: the same learners, the same messages, over `torch.distributed`."""

from blocklocal.parallel.address import Address, find_address
from blocklocal.parallel.processes import Processes, join
from blocklocal.parallel.stage import Stage

__all__ = ["Address", "Processes", "Stage", "find_address", "join"]
