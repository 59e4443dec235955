"""The data-mixing schedule m = 1/(1 + τM) as training uses it: M is the epoch at every step, also of a resumed run."""

from __future__ import annotations

import pytest
import torch
from rule_helpers import data, network

from blocklocal import Trainer
from blocklocal.block.objectives import mixing
from blocklocal.block.step import StepContext

TAU = 0.5
STEPS = 2


def heard(net) -> list[float]:
    """The mixing weights that the first block's loss is given, in the order of the steps."""
    weights: list[float] = []
    net.learners[0].local.register_forward_pre_hook(
        lambda _, args, named: weights.append(named["mix"]), with_kwargs=True
    )
    return weights


def variational():
    return network("mlp", objective="variational", family="bernoulli", tau=TAU)


@pytest.mark.parametrize("begun", [0, 1])
def test_every_step_of_an_epoch_mixes_by_the_number_of_the_epoch(begun):
    net = variational()
    weights = heard(net)
    trainer = Trainer(net, epochs=4)
    trainer.epoch = begun  # as a resumed run has it
    trainer.fit([data(seed=step) for step in range(STEPS)])
    assert weights == pytest.approx([1 / (1 + TAU * epoch) for epoch in range(begun, 4) for _ in range(STEPS)])


def test_a_step_by_hand_mixes_by_the_epoch_of_the_network():
    net = variational()
    weights = heard(net)
    for epoch in (0, 3):
        net.epoch = epoch
        net.step(*data())
    assert weights == pytest.approx([1.0, 1 / (1 + 3 * TAU)])


def test_a_step_of_no_stated_epoch_mixes_as_the_first_one():
    assert StepContext().mix == mixing(TAU, epoch=0)


def test_what_is_mixed_in_changes_what_is_learned():
    late, early = variational(), variational()
    late.epoch = 5
    for net in (late, early):
        net.step(*data())
    a, b = ([p.detach().clone() for p in net.learners[0].block.parameters()] for net in (late, early))
    assert not all(map(torch.equal, a, b))
