"""The rule deep-supervision. Oracle: one graph over all blocks and heads, by plain autograd."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import blocklocal as bl
from blocklocal._common.errors import InputError
from blocklocal.exits import fit_exits

X = torch.randn(12, 6, generator=torch.Generator().manual_seed(0))
Y = X[:, :3].argmax(1)


def network(**settings) -> bl.BlockLocal:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    given = {"rule": "deep-supervision", "readout": 0, "optimizer": bl.sgd(lr=0.1, momentum=0.0, weight_decay=0.0)}
    return bl.BlockLocal(bl.split(model, 3), classes=3, example=X, **{**given, **settings})


def test_a_step_is_that_of_the_sum_of_all_losses_through_the_whole_network():
    net, other = network(), network()
    net.step(X, Y)
    a, total = X, torch.zeros(())
    for learner in other.learners[:-1]:
        a = learner.block(a)
        total = total + F.cross_entropy(learner.local.classifier(a.relu()), Y)  # rectified units: their mean
    (total + F.cross_entropy(other.learners[-1].block(a), Y)).backward()
    with torch.no_grad():
        for p in other.parameters():
            if p.grad is not None:
                p -= 0.1 * p.grad
    for (name, mine), (_, theirs) in zip(net.named_parameters(), other.named_parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, msg=name)


def test_the_loss_of_the_output_reaches_the_first_block():
    one, two = network(), network()
    one.step(X, Y)
    with torch.no_grad():
        two.learners[-1].block[-1].weight.mul_(2)
    two.step(X, Y)
    assert not torch.equal(one.learners[0].block[0].weight, two.learners[0].block[0].weight)


def test_every_block_predicts_and_samples_leave_early():
    net = network()
    for _ in range(30):
        results = net.step(X, Y)
    assert all(result.loss < 0.9 for result in results)
    assert all(block is not None for block in net.predict(X).blocks)
    assert fit_exits(net, [(X, Y)]).for_budget(1.0).setting.right > 0.5


def test_float16_is_refused():
    net = network()
    net.autocast(torch.float16)
    with pytest.raises(InputError, match="in float16 each block scales its own"):
        net.step(X, Y)
