"""What it costs to leave at a block: FLOPs of the blocks, and of the readouts that are asked on the way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from blocklocal._common.message import Input, lead, mask_after
from blocklocal._common.modes import kept_modes
from blocklocal.network.network import BlockLocal


@dataclass(frozen=True)
class Costs:
    """FLOPs of a sample: products of matrices and convolutions.

    Attributes:
        blocks: of every block's forward pass.
        answers: of what every block needs beside it to answer; of the last nothing.
    """

    blocks: tuple[float, ...]
    answers: tuple[float, ...]

    @property
    def full(self) -> float:
        """All blocks, and the answer of the last one alone."""
        return sum(self.blocks)

    def leaving(self, asked: list[bool]) -> list[float]:
        """Of leaving at each block, as a share of `full`, where these blocks are asked on the way."""
        total, found = 0.0, []
        for block, answer, ask in zip(self.blocks, self.answers, asked, strict=True):
            total += block + (answer if ask else 0.0)
            found.append(total / self.full)
        return found


@torch.no_grad()
def costs_of(network: BlockLocal, x: Input) -> Costs:
    """Count a forward pass on a batch x [B, …] in evaluation mode.

    What is the same for every sample, as a twin, is not counted: it is made once for all.
    """
    blocks, answers, samples = [], [], len(lead(x))
    with kept_modes([network]):
        network.eval()
        a: Any = x
        for learner, message in zip(network.learners, network.own_messages(), strict=True):
            given = a
            with FlopCounterMode(display=False) as counter:
                a = learner(given)
            blocks.append(counter.get_total_flops() / samples)
            with FlopCounterMode(display=False) as counter:
                learner.scores(a, message, mask_after(given, a))
            answers.append(counter.get_total_flops() / samples)
    return Costs(tuple(blocks), tuple(answers))
