"""Every rule does what its name says, for every kind of network and target. Oracles: definitions, written out by hand.

Local rules: what a block learns does not depend on any later block. frozen: no hidden parameter moves, statistics of
norms do. Direct feedback: a hidden block learns from the output error through its fixed matrix, from nothing else. With
one block every rule but feedback alignment is backprop.
"""

import math

import pytest
import torch
from rule_helpers import ALL_RULES, gradients, parameters, pendings, same, state
from torch import nn

from blocklocal import BlockLocal, sgd, split
from blocklocal.models.transformer import Transformer
from blocklocal.rules import RULES

BATCH = 6
LOCAL = [name for name in ALL_RULES if RULES.get(name).local]


class Encoder(nn.Sequential):
    """Tokens, embedded and read by torch's own layer."""

    def __init__(self):
        super().__init__(
            nn.Embedding(7, 8), nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True), nn.Linear(8, 7)
        )


def lines():
    return nn.Sequential(
        nn.Conv1d(2, 6, 3), nn.BatchNorm1d(6), nn.ReLU(), nn.Conv1d(6, 5, 3, 2), nn.BatchNorm1d(5), nn.ReLU(),
        nn.Flatten(), nn.Linear(20, 3),
    )  # fmt: skip


def volumes():
    layers = [nn.Conv3d(2, 4, 3), nn.BatchNorm3d(4), nn.ReLU(), nn.Conv3d(4, 3, 1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(24, 3))


def dense(outputs=3):
    layers = [nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, outputs)]
    return nn.Sequential(*layers)


def tokens():
    x = torch.randint(7, (BATCH, 5))
    return x, x.flip(1)


# model, a batch, kind of target
KINDS = {
    "dense": (dense, lambda: (torch.randn(BATCH, 4), torch.arange(BATCH) % 3), {"classes": 3}),
    "binary labels": (dense, lambda: (torch.randn(BATCH, 4), torch.randint(2, (BATCH, 3))), {"labels": 3}),
    "1-D convolutions": (lines, lambda: (torch.randn(BATCH, 2, 12), torch.arange(BATCH) % 3), {"classes": 3}),
    "3-D convolutions": (volumes, lambda: (torch.randn(BATCH, 2, 4, 4, 4), torch.arange(BATCH) % 3), {"classes": 3}),
    "one target per position": (lambda: Transformer(7, 5, width=8, blocks=3, heads=2), tokens, {"classes": 7}),
    "torch's transformer": (Encoder, tokens, {"classes": 7}),
}  # fmt: skip


def made(kind, rule, blocks=3, seed=0, **settings):
    """A network and a batch."""
    model, batch, targets = KINDS[kind]
    torch.manual_seed(seed)
    module = model()
    torch.manual_seed(1)
    x, y = batch()
    given = {"rule": rule, "readout": 0, "optimizer": sgd(0.05, weight_decay=0.01), "example": x, **targets, **settings}
    return BlockLocal(split(module, blocks), **given), x, y


@pytest.mark.parametrize("kind", KINDS)
class TestEveryKind:
    @pytest.mark.parametrize("rule", ALL_RULES)
    def test_it_trains_the_blocks_that_learn_and_predicts(self, kind, rule):
        net, x, y = made(kind, rule)
        before = [parameters(learner) for learner in net.learners]
        results = net.step(x, y)
        assert all(math.isfinite(r.loss.item()) for r in results if r is not None)
        for learner, kept in zip(net.learners, before, strict=True):
            moved = {name for name, p in learner.named_parameters() if not torch.equal(p, kept[name])}
            free = {name for name, p in learner.named_parameters() if p.requires_grad and p.dim() > 1}
            assert moved >= free if learner.trains else not moved
        prediction = net.predict(x)
        assert prediction.label.shape == y.shape
        assert prediction.confidence.shape == y.shape

    @pytest.mark.parametrize("rule", LOCAL)
    def test_what_a_block_learns_depends_on_no_later_block(self, kind, rule):
        nets = [made(kind, rule)[0] for _ in range(2)]
        _, x, y = made(kind, rule)
        with torch.no_grad():
            for p in nets[1].learners[-1].parameters():
                p.mul_(-2.0).add_(0.1)
            for p in nets[1].learners[1].block.parameters():
                p.mul_(-2.0).add_(0.1)
        for net in nets:
            net.step(x, y)
        assert same(state(nets[0].learners[0]), state(nets[1].learners[0]))
        assert not same(state(nets[0].learners[1].block), state(nets[1].learners[1].block))

    @pytest.mark.parametrize("rule", [rule for rule in ALL_RULES if rule != "feedback-alignment"])
    def test_with_one_block_it_is_backprop(self, kind, rule):
        net, x, y = made(kind, rule, blocks=1)
        plain, *_ = made(kind, "backprop", blocks=1)
        for _ in range(3):
            net.step(x, y)
            plain.step(x, y)
        assert same(state(net.split.model), state(plain.split.model))

    def test_the_frozen_control_moves_no_hidden_parameter_and_its_norms_follow_the_data(self, kind):
        net, x, y = made(kind, "frozen")
        learning, *_ = made(kind, "block-local")
        before = [parameters(learner) for learner in net.learners]
        statistics = [b.clone() for learner in net.learners for name, b in learner.named_buffers() if "running" in name]
        for each in (net, learning):
            each.step(x, y)
        assert all(same(parameters(learner), kept) for learner, kept in zip(net.learners[:-1], before, strict=False))
        assert not same(parameters(net.learners[-1]), before[-1])
        now = [b for learner in net.learners for name, b in learner.named_buffers() if "running" in name]
        assert not any(torch.equal(a, b) for a, b in zip(statistics, now, strict=True))
        assert same(state(net.learners[-1]), state(learning.learners[-1]))

    def test_direct_feedback_gives_a_hidden_block_the_output_error_through_its_matrix_and_nothing_else(self, kind):
        net, x, y = made(kind, "direct-feedback-alignment")
        runs = pendings(net, x, y)
        rows = error_rows(net, runs[-1].output, y)
        found = gradients(net, x, y)
        for learner, run in zip(net.learners[:-1], runs, strict=False):
            matrix = learner.local.twin.network.weight * learner.local.message_scale  # [U, R]
            at_output = spread(rows @ matrix.T, run.output)
            own = dict(learner.block.named_parameters(prefix="block"))
            expected = torch.autograd.grad(run.output, list(own.values()), at_output)
            for name, gradient in zip(own, expected, strict=True):
                assert torch.allclose(found[learner.index][name], gradient, rtol=1e-3, atol=1e-6), name


# Why blocks wait for later ones, by rule: what the rule needs.
WAITS = {
    "backprop": "trains all blocks as one",
    "feedback-alignment": "trains all blocks as one",
    "direct-feedback-alignment": "waits for the error of the output",
    "deep-supervision": "waits for the error of the output",
}
OWN_LOSSES = ["block-local", "greedy", "target-projection"]


@pytest.mark.parametrize("rule", ALL_RULES)
def test_blocks_wait_for_later_ones_under_the_rules_that_need_the_output_and_no_others(rule):
    reason = RULES.get(rule).waits_because("local")
    assert WAITS[rule] in reason if rule in WAITS else reason is None


@pytest.mark.parametrize("rule", ALL_RULES)
def test_a_loss_reaches_back_where_hidden_blocks_have_losses_of_their_own_and_blocks_wait_for_it_then(rule):
    made = RULES.get(rule)
    assert made.reaches == (rule in OWN_LOSSES)
    assert made.own_losses == (rule in [*OWN_LOSSES, "deep-supervision"])
    assert ("scope neighbour" in (made.waits_because("neighbour") or "")) == (rule in OWN_LOSSES)


@pytest.mark.parametrize("rule", OWN_LOSSES)
def test_neighbour_scope_trains_on_tokens_and_tells_the_loss_of_every_block(rule):
    net, x, y = made("torch's transformer", rule, scope="neighbour")
    before = [parameters(learner.block) for learner in net.learners]
    results = net.step(x, y)
    assert len(results) == len(net.learners)
    assert all(math.isfinite(r.loss.item()) for r in results)
    assert not any(same(parameters(learner.block), kept) for learner, kept in zip(net.learners, before, strict=True))


class Cut(nn.Linear):
    """A user's own layer that learns nothing about its input."""

    def forward(self, x):
        return super().forward(x.detach())


def test_a_block_whose_neighbour_sends_no_gradient_learns_from_its_own_loss():
    nets = []
    for scope in ("local", "neighbour"):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), Cut(6, 6), nn.ReLU(), nn.Linear(6, 3))
        net = BlockLocal(split(module, 3), classes=3, scope=scope, example=torch.zeros(2, 4), optimizer=sgd(0.05))
        torch.manual_seed(1)
        for _ in range(2):
            net.step(torch.randn(BATCH, 4), torch.arange(BATCH) % 3)
        nets.append(net)
    assert same(parameters(nets[0].learners[0]), parameters(nets[1].learners[0]))


def error_rows(net, logits, y):
    """∂L/∂logits of every target row, [B, R] or [B, T, R]."""
    logits = logits.detach().requires_grad_()
    if net.targets.rows == net.targets.count:
        loss = nn.functional.cross_entropy(logits.flatten(0, -2), y.flatten())
    else:
        loss = nn.functional.binary_cross_entropy_with_logits(logits, y.float())
    (error,) = torch.autograd.grad(loss, logits)
    if net.targets.rows == net.targets.count:
        return error
    return torch.stack([-error, error], -1).flatten(1)


def spread(at_units, output):
    """A hidden block's error: shared by the positions of maps, each position's own where each has a target."""
    if output.dim() == 2 or at_units.dim() == 3:
        return at_units
    places = output[0, 0].numel()
    return at_units.reshape(*at_units.shape, *(1 for _ in output.shape[2:])).expand_as(output) / places
