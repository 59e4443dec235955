"""Greedy local learning: a linear classifier of its own at every block, no twin (Belilovsky et al. 2019, ICML)."""

from blocklocal.rules.base import RULES, Rule, local_step

RULES.add("greedy", Rule("greedy", "local cross-entropy at every block", local_step, objective="greedy", twin=None))
