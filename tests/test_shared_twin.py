"""The shared twin: what it is, when it moves, and that it is the same in every walk."""

import copy

import pytest
import torch
from torch import nn

import blocklocal as bl
from blocklocal._common.errors import InputError
from blocklocal.models.transformer import Transformer

WORDS, WIDTH, LENGTH = 12, 8, 6
X = torch.randint(0, WORDS, (5, LENGTH), generator=torch.Generator().manual_seed(0))
Y = X.roll(-1, 1)


def network(delay: int = 0, blocks: int = 3, **settings) -> bl.BlockLocal:
    torch.manual_seed(0)
    model = Transformer(WORDS, LENGTH, width=WIDTH, blocks=3, causal=True)
    given = {"family": "gaussian", "order": "first", "readout": 1, "optimizer": bl.adamw(lr=1e-2), **settings}
    given = {"classes": WORDS, **given}
    return bl.BlockLocal(bl.split(model, blocks), example=X, twin="shared", message_delay=delay, **given)


def table(net: bl.BlockLocal) -> torch.Tensor:
    return parameter(net).detach().clone()


def parameter(net: bl.BlockLocal) -> nn.Parameter:
    last = net.learners[-1]
    return last.block.get_parameter(last.twin.name)


def read(net: bl.BlockLocal, k: int) -> torch.Tensor:
    """The table that block k (from 0) reads in the next step."""
    held = net.learners[k].twin.held
    return table(net) if held is None else held.clone()


def test_a_hidden_block_predicts_with_the_last_blocks_table_its_own_gain_and_log_prior():
    net = network(readout=0, normalise="none").eval()
    with torch.no_grad():
        net.learners[0].local.gain.fill_(0.7)
        net.learners[0].local.prior.copy_(torch.linspace(-1, 1, WORDS))
        a = net.learners[0](X)
        expected = 0.7 * a @ table(net).T + torch.linspace(-1, 1, WORDS)
    torch.testing.assert_close(net.block_logits(X)[0], expected)


def test_only_the_last_block_trains_the_table():
    net = network()
    shared = parameter(net)
    assert shared is net.split.model.head.linear.weight
    for learner in net.learners[:-1]:
        assert all(p is not shared for p in learner.trainable())
        assert learner.local.gain in set(learner.trainable())
    net.step(X, Y)
    assert not torch.equal(table(net), table(network()))


def test_without_a_delay_every_block_reads_the_table_of_the_step_before():
    net = network()
    for _ in range(3):
        for k in (0, 1):
            message, _ = net.learners[k].message(net.learners[-1].message(net.rows)[1])
            torch.testing.assert_close(message[:, 0], table(net))
        net.step(X, Y)


@pytest.mark.parametrize("period", [1, 3])
def test_the_table_moves_one_block_further_every_period(period):
    net, before = network(period), []  # the last block's table before step t
    for step in range(5 * period):
        before.append(table(net))
        net.step(X, Y)
        for k, hops in ((1, 1), (0, 2)):
            sent = (step // period - hops) * period  # the step before which it was the last block's
            assert torch.equal(read(net, k), before[max(sent, 0)]), (step, k)


def test_processes_and_visits_are_compared_at_a_delay_that_matters():
    assert not torch.equal(read(trained(network(2)), 0), table(trained(network(2))))


def trained(net: bl.BlockLocal, steps: int = 6) -> bl.BlockLocal:
    for _ in range(steps):
        net.step(X, Y)
    return net


def test_a_network_that_is_saved_and_loaded_goes_on_bit_for_bit():
    whole, half = trained(network(2), 7), trained(network(2), 3)
    other = network(2)
    other.load_state_dict(copy.deepcopy(half.state_dict()))
    other.steps = half.steps
    for mine, theirs in zip(other.learners, half.learners, strict=True):
        mine.optimizer.load_state_dict(copy.deepcopy(theirs.optimizer.state_dict()))
    assert_equal(trained(other, 4), whole)


@pytest.mark.parametrize(("visit", "tokens"), [(1, {}), (2, {}), (3, {}), (3, {"negatives": 0.3})])
def test_streamed_block_by_block_the_weights_are_the_same(visit, tokens, tmp_path):
    few = {"classes": None, "tokens": WORDS, **tokens} if tokens else {}
    whole = trained(network(3, **few))
    streamed = bl.Streamed(lambda: network(3, **few), visit=visit, store=tmp_path)
    for _ in streamed.walk([(X, Y)] * 6):
        pass
    for k, expected in enumerate(whole.learners):
        found = streamed.stock.fetch(k).state_dict()
        for name, value in expected.state_dict().items():
            assert torch.equal(found[name], value), name


def assert_equal(a: nn.Module, b: nn.Module) -> None:
    for (name, one), (other, two) in zip(a.state_dict().items(), b.state_dict().items(), strict=True):
        assert name == other
        assert torch.equal(one, two), name


def test_a_longer_visit_than_the_period_is_refused(tmp_path):
    with pytest.raises(InputError, match="give --message-delay 4 or more"):
        bl.Streamed(lambda: network(3), visit=4, store=tmp_path)


def test_a_last_block_without_a_table_is_refused():
    with pytest.raises(InputError, match="the shared twin: the last block's table has rows of 6 units, and block 1"):
        bl.BlockLocal(
            bl.split(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3)), at=["2"]),
            classes=3, example=torch.randn(4, 4), twin="shared", readout=0,
        )  # fmt: skip
    with pytest.raises(InputError, match="no such layer: end the model with one, or give twin='dense'"):
        bl.BlockLocal(
            bl.split(nn.Sequential(nn.Conv1d(2, 4, 1), nn.ReLU(), nn.Conv1d(4, 6, 1), nn.Flatten()), at=["2"]),
            classes=12, example=torch.randn(4, 2, 2), twin="shared", readout=0,
        )  # fmt: skip


def test_tokens_take_the_shared_twin_where_there_is_a_table_and_dense_ones_elsewhere():
    def built(head):
        model = nn.Sequential(nn.Embedding(WORDS, 8), nn.Linear(8, 8), nn.ReLU(), head)
        return bl.BlockLocal(bl.split(model, at=["3"]), tokens=WORDS, example=X)

    assert built(nn.Linear(8, WORDS)).learning.twin == "shared"
    assert built(Product(8, WORDS)).learning.twin == "dense"


class Product(nn.Module):
    """A head that is no linear layer."""

    def __init__(self, width, rows):
        super().__init__()
        self.table = nn.Parameter(torch.randn(rows, width))

    def forward(self, h):
        return h @ self.table.T
