"""torch.compile for block learners: each part of a block that a step runs is compiled by itself."""

from collections.abc import Sequence
from typing import Any

import torch

from blocklocal._common.errors import InputError, first_line
from blocklocal.block.learner import BlockLearner
from blocklocal.rules.base import Rule


def compile_learners(learners: Sequence[BlockLearner], rule: Rule, *args: Any, **kwargs: Any) -> None:
    """As `BlockLocal.compile`.

    Raises:
        InputError: for a rule that changes how gradients are taken.
    """
    if any(learner.forward_context is not None for learner in learners):
        raise InputError(
            f"the rule {rule.name} replaces gradients while a block runs, which torch.compile cannot follow: "
            "leave out compile(), or take another rule."
        )
    for learner in learners:
        for part in (learner.block, learner.twin, learner.local):
            if part is not None:
                part.compile(*args, **kwargs)


def check_compiler(device: torch.device) -> None:
    """Raise InputError where torch.compile does not work on this machine, as without a C++ compiler."""
    try:
        torch.compile(lambda x: x + 1)(torch.zeros(2, device=device))
    except Exception as error:  # torch, its compiler and the system's fail in any way
        needed = "a C++ compiler (g++)" if device.type == "cpu" else "Triton and a C compiler (gcc)"
        raise InputError(
            f"torch.compile does not work here ({first_line(error)}): install {needed}, or leave out --compile."
        ) from error
