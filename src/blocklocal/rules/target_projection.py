"""Target projection: the backward message is a fixed random projection of the target (Frenkel et al. 2021)."""

from blocklocal.rules.base import RULES, Rule, local_step

RULES.add(
    "target-projection",
    Rule(
        "target-projection",
        "the target through fixed random weights is the gradient (DRTP)",
        local_step,
        objective="projection",
        twin="dense",
        fixed_twin=True,
        parts=False,
    ),
)
