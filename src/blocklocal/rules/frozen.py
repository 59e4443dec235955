"""The control: hidden blocks stay at their random initial values, the last block learns as in every other rule."""

from blocklocal.rules.base import RULES, Rule, local_step


def last_block(index: int, blocks: int) -> bool:
    return index == blocks - 1


RULES.add(
    "frozen",
    Rule("frozen", "the control: only the last block learns", local_step, objective=None, twin=None, trains=last_block),
)
