"""Block-local learning: every block matches its forward message with its twin's backward message."""

from blocklocal.rules.base import RULES, Rule, local_step

RULES.add("block-local", Rule("block-local", "messages matched at every block, no gradient between them", local_step))
