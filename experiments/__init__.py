"""The paper's experiments, re-made, and one of ours: `python -m experiments table1|figure2|figure3|accuracy`."""

import sys

from blocklocal._common.registry import import_all
from experiments.experiment import EXPERIMENTS, Experiment, Job, Place

import_all(sys.modules[__name__])

__all__ = ["EXPERIMENTS", "Experiment", "Job", "Place"]
