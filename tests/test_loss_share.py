"""The loss of hidden blocks at a share of the positions of a sequence."""

import pytest
import torch
from torch import nn

import blocklocal as bl
from blocklocal._common.errors import InputError
from blocklocal.block.target import Target

WORDS, LENGTH, SAMPLES = 12, 10, 3
X = torch.randint(0, WORDS, (SAMPLES, LENGTH), generator=torch.Generator().manual_seed(0))
Y = X.roll(-1, 1)


def network(share: float, **targets) -> bl.BlockLocal:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(WORDS, 8), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, WORDS))
    given = targets or {"tokens": WORDS}
    return bl.BlockLocal(bl.split(model, at=["3"]), example=X, readout=0, loss_share=share, **given)


def hidden(net: bl.BlockLocal, y: torch.Tensor = Y, draw: int = 0) -> tuple[torch.Tensor, set[int]]:
    """The hidden block's loss, and the positions that have a gradient."""
    learner = net.learners[0]
    a = learner(X).detach().requires_grad_()
    message, _ = learner.message(net.learners[-1].message(net.rows)[1])
    torch.manual_seed(draw)
    found = learner.local(a, y, message=message, wanted={}, mix=1.0)
    found.loss.backward()
    per_position = a.grad.abs().sum(-1) > 0
    assert torch.equal(per_position, per_position[:1].expand_as(per_position))  # the same in all samples
    return found.loss.detach(), set(per_position[0].nonzero().flatten().tolist())


@pytest.mark.parametrize("targets", [{"tokens": WORDS}, {"classes": WORDS}], ids=["tokens", "classes"])
def test_the_loss_is_the_mean_over_the_positions_that_were_drawn(targets):
    part, whole = network(0.3, **targets), network(1.0, **targets)
    drawn = set()
    for draw in range(40):
        loss, at = hidden(part, draw=draw)
        assert len(at) == 3
        others = torch.ones(LENGTH, dtype=torch.bool)
        others[list(at)] = False
        expected, _ = hidden(whole, Y.masked_fill(others, -100))
        torch.testing.assert_close(loss, expected)
        drawn |= at
    assert drawn == set(range(LENGTH))


def test_a_share_of_one_and_evaluation_take_all_positions():
    assert hidden(network(1.0))[1] == set(range(LENGTH))
    assert hidden(network(0.3).eval())[1] == set(range(LENGTH))


def test_figures_of_training_count_the_positions_that_were_drawn():
    result, output = network(0.3).step(X, Y)
    assert result.sums[1] == 3 * SAMPLES
    assert output.sums[1] == LENGTH * SAMPLES


def test_weights_of_positions_stay_with_them():
    weight = torch.zeros(SAMPLES, LENGTH)
    weight[:, 4] = 1.0
    net = network(1.0, classes=WORDS)
    expected, _ = hidden(net, Target(Y, weight))
    found = [hidden(network(0.5, classes=WORDS), Target(Y, weight), draw)[0] for draw in range(12)]
    assert all(torch.isclose(each, expected) or each == 0 for each in found)
    assert any(torch.isclose(each, expected) for each in found)


@pytest.mark.parametrize("share", [0.0, 1.5, "half"])
def test_what_is_no_share_is_refused(share):
    with pytest.raises(InputError, match="loss_share must be a number above 0"):
        network(share)


def test_a_network_that_answers_once_per_sample_has_no_positions_to_draw():
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    with pytest.raises(InputError, match=r"loss_share=0\.5 takes a part of the positions of a sequence"):
        bl.BlockLocal(bl.split(net, 2), classes=3, example=torch.zeros(2, 4), loss_share=0.5)
