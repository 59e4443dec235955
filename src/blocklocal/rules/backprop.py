"""End-to-end backpropagation: one learner that holds the whole network."""

from blocklocal.rules.base import RULES, Rule, local_step

RULES.add(
    "backprop",
    Rule("backprop", "end-to-end gradients (the reference)", local_step, local=False, whole=True),
)
