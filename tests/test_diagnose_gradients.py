"""Gradients of a rule beside backprop's. Oracles: torch's own autograd, and the steps that the rules take."""

import pytest
import torch
import torch.nn.functional as F
from rule_helpers import ALL_RULES, data, gradients, network, same, state, twin_of
from run_helpers import equal

from blocklocal.diagnose.gradients import backprop_gradients, gradient_cosines, rule_gradients
from blocklocal.rules.base import target_messages


def flat(tensors) -> torch.Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors]).double()


def without_optimizers(net):
    net = twin_of(net)
    for learner in net.learners:
        learner.optimizer = None
    return net


def by_hand(net, x, y) -> list[float]:
    """Block by block: the local loss on a cut input, and cross-entropy through the user's module, by torch.autograd."""
    net = twin_of(net).train()
    model = net.split.model
    truth = F.cross_entropy(model(x), y)
    true = dict(zip(model.parameters(), torch.autograd.grad(truth, list(model.parameters())), strict=True))
    cosines, a = [], x
    for learner, message in zip(net.learners, target_messages(net.learners, torch.eye(net.targets.rows)), strict=True):
        weights = list(learner.block.parameters())
        output = learner.block(a)
        result = learner.local(output, y, message=message, wanted={"image": x, "input": a}, mix=1.0)
        own = torch.autograd.grad(result.loss, weights, allow_unused=True)
        cosines.append(F.cosine_similarity(flat(own), flat(true[p] for p in weights), dim=0).item())
        a = output.detach()
    return cosines


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"readout": 1, "reconstruction": 1.0},
        {"family": "bernoulli", "objective": "variational"},
        {"rule": "greedy"},
    ],
    ids=["evidence", "parts", "variational", "greedy"],
)
def test_cosines_are_those_of_gradients_taken_by_hand(settings):
    net = network("resnet20", **settings)
    x, y = data("resnet20")
    assert gradient_cosines(net, [(x, y)]) == pytest.approx(by_hand(net, x, y), abs=1e-5)


def test_cosines_are_a_mean_over_batches():
    net, batches = network("mlp"), [data("mlp", seed) for seed in range(3)]
    each = [gradient_cosines(net, [batch]) for batch in batches]
    together = gradient_cosines(net, batches)
    assert len({tuple(values) for values in each}) == 3
    assert together == pytest.approx([sum(values) / 3 for values in zip(*each, strict=True)])


@pytest.mark.parametrize("rule", ALL_RULES)
def test_the_gradients_of_a_rule_are_those_its_step_hands_to_the_optimisers(rule):
    net = network("mlp", rule)
    x, y = data("mlp")
    handed = [g for learner in gradients(twin_of(net), x, y) for n, g in learner.items() if n.startswith("block.")]
    found = [gradient for block in rule_gradients(without_optimizers(net), x, y) for gradient in block]
    assert equal(found, handed)
    assert any(gradient is not None for gradient in found)


@pytest.mark.parametrize("architecture", ["resnet20", "vgg8b", "traced"])
def test_backprop_agrees_with_itself_and_the_last_block_with_backprop(architecture):
    options = {"dropout": 0.4} if architecture == "vgg8b" else {}
    batch = data(architecture)
    assert gradient_cosines(network(architecture, "backprop", options=options), [batch]) == pytest.approx([1.0] * 3)
    assert gradient_cosines(network(architecture, options=options), [batch])[-1] == pytest.approx(1.0)


def test_dropout_is_the_same_in_both_gradients_and_leaves_the_global_stream_alone():
    net = network("vgg8b", "backprop", options={"dropout": 0.5})
    before = torch.get_rng_state()
    one, other = (backprop_gradients(twin_of(net), *data("vgg8b")) for _ in range(2))
    assert torch.equal(flat(one[0]), flat(other[0]))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_frozen_block_has_no_direction():
    cosines = gradient_cosines(network("mlp", "frozen"), [data("mlp")])
    assert cosines[:-1] == [None, None]
    assert cosines[-1] == pytest.approx(1.0)


def test_feedback_alignment_is_compared_with_true_gradients():
    net, (x, y) = network("mlp", "feedback-alignment", blocks=2), data("mlp")
    true = backprop_gradients(twin_of(net), x, y)
    plain = twin_of(net).split.model.train()
    expected = torch.autograd.grad(F.cross_entropy(plain(x), y), list(plain.parameters()))
    assert torch.allclose(flat(g for block in true for g in block), flat(expected), atol=1e-7)
    assert gradient_cosines(net, [(x, y)])[0] < 0.99


def test_neighbour_scope_counts_what_reaches_back():
    """With the loss of the last block reaching back, the block before it gets part of backprop's own gradient."""
    local, reaching = (network("mlp", scope=scope, blocks=2) for scope in ("local", "neighbour"))
    batch = data("mlp", samples=8)
    assert gradient_cosines(reaching, [batch])[0] > gradient_cosines(local, [batch])[0]


@pytest.mark.parametrize("settings", [{}, {"twin": "chain", "message_delay": 1}, {"rule": "backprop"}])
def test_nothing_of_the_network_changes(settings):
    net = network("resnet20", **settings).eval()
    before, steps = state(net), net.steps
    optimizers = [learner.optimizer for learner in net.learners]
    gradient_cosines(net, [data("resnet20", seed) for seed in range(2)])
    assert same(state(net), before)
    assert net.steps == steps
    assert [learner.optimizer for learner in net.learners] == optimizers
    assert not any(module.training for module in net.modules())
    assert all(p.grad is None for p in net.parameters())


def test_weights_that_the_user_froze_are_left_out():
    net = network("mlp")
    net.split.blocks[0].requires_grad_(False)
    cosines = gradient_cosines(net, [data("mlp")])
    assert cosines[0] is None
    assert cosines[1] is not None
