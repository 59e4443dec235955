"""The paper's experiments, re-made, and one of ours: `blocklocal reproduce table1|figure2|figure3|accuracy`."""

from blocklocal import reproduce
from blocklocal.registry import import_all
from blocklocal.reproduce.experiment import EXPERIMENTS, Experiment, Job, Place

import_all(reproduce)

__all__ = ["EXPERIMENTS", "Experiment", "Job", "Place"]
