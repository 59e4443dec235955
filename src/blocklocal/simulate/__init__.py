"""An event simulation of pipeline schedules and of block-local learning over many devices (`docs/simulator.md`)."""

from blocklocal.simulate.costs import BlockCosts, Link, uniform_costs
from blocklocal.simulate.measure import measure
from blocklocal.simulate.run import Result, StepSpan, simulate, timeline
from blocklocal.simulate.schedules import SCHEDULES

__all__ = ["SCHEDULES", "BlockCosts", "Link", "Result", "StepSpan", "measure", "simulate", "timeline", "uniform_costs"]
