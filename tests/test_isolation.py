"""No gradient crosses a block boundary: facts of autograd and of weights, on every model, for every local rule.

Neighbour scope reaches one block back. The rules that are not local stand beside: the tests can fail.
"""

import pytest
import torch
from batteries import thinned
from rule_helpers import (
    ARCHITECTURES,
    LOCAL_RULES,
    batch_of,
    data,
    disturb,
    gradients,
    network,
    parameters,
    pendings,
    same,
    state,
)

from blocklocal.rules import RULES
from blocklocal.rules.base import target_messages

PARTS = {"readout": 1, "reconstruction": 1.0, "reconstruct": "input", "similarity": 0.5}
CUTTING = [rule for rule in LOCAL_RULES if rule != "frozen"]


def watch_inputs(net):
    """The tensors that arrive at every block, as the block sees them."""
    seen = []

    def look(_, given):
        seen.append((given[0].requires_grad, given[0].grad_fn))

    for learner in net.learners:
        learner.block.register_forward_pre_hook(look)
    return seen


def learned(learner):
    return state(learner)


@pytest.mark.parametrize(("rule", "architecture"), thinned(LOCAL_RULES, ARCHITECTURES))
def test_a_block_learns_the_same_whatever_the_later_blocks_are(architecture, rule):
    plain, other = network(architecture, rule), network(architecture, rule)
    x, y = data(architecture)
    for learner in other.learners[1:]:
        disturb(learner.block)
    seen = watch_inputs(other)
    for net in (plain, other):
        net.step(x, y)
        net.step(x, y)
    assert same(learned(plain.learners[0]), learned(other.learners[0]))
    assert not same(learned(plain.learners[1]), learned(other.learners[1]))
    assert len(seen) == 6
    assert all(given == (False, None) for given in seen)


@pytest.mark.parametrize("rule", LOCAL_RULES)
def test_a_block_learns_the_same_whether_or_not_later_blocks_exist(rule):
    whole, short = network("resnet18", rule), network("resnet18", rule)
    x, y = data("resnet18")
    whole.step(x, y)
    short.train()
    RULES.get(rule).step(short.learners[:2], batch_of(short, x, y))
    for k in (0, 1):
        assert same(learned(whole.learners[k]), learned(short.learners[k]))


@pytest.mark.parametrize("twin", ["dense", "chain", "mirrored"])
@pytest.mark.parametrize("architecture", ["mlp", "resnet18", "sequential", "traced"])
def test_autograd_knows_no_way_from_a_loss_to_another_blocks_weights(architecture, twin):
    net = network(architecture, twin=twin, **PARTS)
    x, y = data(architecture)
    for k, pending in enumerate(pendings(net, x, y)):
        assert pending.source.grad_fn is None
        assert not pending.source.requires_grad
        for j, learner in enumerate(net.learners):
            own = [p for p in learner.parameters() if p.requires_grad]
            found = torch.autograd.grad(pending.result.loss, own, allow_unused=True, retain_graph=True)
            reached = [g is not None for g in found]
            assert any(reached) if j == k else not any(reached), f"loss {k + 1} → block {j + 1}"


@pytest.mark.parametrize("rule", CUTTING)
def test_what_a_block_passes_on_carries_no_graph(rule):
    net = network("mlp", rule)
    for pending in pendings(net, *data()):
        assert pending.output.requires_grad
        assert pending.sent().grad_fn is None
        assert not pending.sent().requires_grad


@pytest.mark.parametrize("rule", ["block-local", "target-projection"])
def test_the_target_message_of_a_block_moves_that_block_and_no_earlier_one(rule):
    plain, other = network("mlp", rule, blocks=4), network("mlp", rule, blocks=4)
    x, y = data()
    disturb(other.learners[1].local.twin)
    before = parameters(other.learners[1].block)
    for net in (plain, other):
        net.step(x, y)
    assert same(learned(plain.learners[0]), learned(other.learners[0]))
    moved, reference = parameters(other.learners[1].block), parameters(plain.learners[1].block)
    assert not same(moved, before)
    assert not same(moved, reference)


def test_a_chained_message_arrives_as_data():
    net = network("mlp", twin="chain", blocks=4)
    messages = target_messages(net.learners, torch.eye(5))
    for k, message in enumerate(messages[:-1]):
        for j, learner in enumerate(net.learners[:-1]):
            own = list(learner.local.twin.parameters())
            found = torch.autograd.grad(message.sum(), own, allow_unused=True, retain_graph=True)
            assert all((g is not None) == (j == k) for g in found)


@pytest.mark.parametrize("rule", [name for name in RULES.names() if not RULES.get(name).local])
def test_rules_that_do_not_claim_to_be_local_are_not(rule):
    """The control of this file: the same disturbance reaches the first block."""
    plain, other = network("mlp", rule), network("mlp", rule)
    x, y = data()
    blocks = [net.learners[-1].block if len(net.learners) > 1 else net.learners[0].block[-1] for net in (plain, other)]
    disturb(blocks[1])
    first = []
    for net in (plain, other):
        net.step(x, y)
        learner = net.learners[0]
        first.append(parameters(learner.block if len(net.learners) > 1 else learner.block[0]))
    assert not same(*first)


class TestNeighbourScope:
    @pytest.mark.parametrize("rule", ["block-local", "greedy", "target-projection"])
    @pytest.mark.parametrize("disturbed", [1, 2, 3])
    def test_a_loss_reaches_one_block_back_and_never_two(self, rule, disturbed):
        plain, other = (network("mlp", rule, blocks=4, scope="neighbour") for _ in range(2))
        x, y = data()
        disturb(other.learners[disturbed].block)
        for net in (plain, other):
            net.step(x, y)
        for k in range(disturbed):
            equal = same(parameters(plain.learners[k].block), parameters(other.learners[k].block))
            assert equal == (k < disturbed - 1), f"block {k + 1}"

    @pytest.mark.parametrize(
        ("architecture", "twin"), [("mlp", "dense"), ("resnet18", "mirrored"), ("traced", "chain")]
    )
    def test_gradients_are_those_of_recomputing_the_block_before_from_a_cut_input(self, architecture, twin):
        net = network(architecture, twin=twin, scope="neighbour", **PARTS)
        x, y = data(architecture)
        expected = recomputed_gradients(net, x, y)
        found = gradients(net, x, y)
        for learner, own in zip(net.learners, found, strict=True):
            for name, gradient in own.items():
                wanted = expected[learner.index, name]
                assert (gradient is None) == (wanted is None), name
                if gradient is not None:
                    assert torch.allclose(gradient, wanted, rtol=1e-4, atol=1e-6 + 1e-5 * wanted.abs().max()), name

    def test_it_changes_the_gradient_of_all_blocks_but_the_last(self):
        local, wide = (gradients(network("mlp", scope=scope, blocks=4), *data()) for scope in ("local", "neighbour"))
        for k in range(4):
            weight = next(name for name in local[k] if name.startswith("block") and name.endswith("linear.weight"))
            assert torch.equal(local[k][weight], wide[k][weight]) == (k == 3)

    def test_twins_and_readouts_hear_their_own_loss_alone(self):
        local, wide = (gradients(network("mlp", scope=scope, **PARTS), *data()) for scope in ("local", "neighbour"))
        for k in range(2):
            own = [name for name in local[k] if name.startswith("local.") and local[k][name] is not None]
            assert own
            assert all(torch.equal(local[k][name], wide[k][name]) for name in own)

    def test_one_block_is_the_same_in_both_scopes(self):
        x, y = data()
        nets = [network("mlp", blocks=1, scope=scope) for scope in ("local", "neighbour")]
        for net in nets:
            net.step(x, y)
        assert same(state(nets[0]), state(nets[1]))


def recomputed_gradients(net, x, y):
    """The trial's way (shared/trial/cifar_proxy.py): block k - 1 runs again from its cut input in front of block k."""
    net.train()
    messages, total, inputs = target_messages(net.learners, torch.eye(5)), 0.0, [x]
    for k, learner in enumerate(net.learners):
        a = inputs[k] if k == 0 else net.learners[k - 1].block(inputs[k - 1])
        output = learner.block(a)
        total = total + learner.local(output, y, message=messages[k], wanted={"input": a.detach()}, mix=1.0).loss
        inputs.append(output.detach())
    total.backward()
    found = {(learner.index, name): p.grad for learner in net.learners for name, p in learner.named_parameters()}
    net.zero_grad(set_to_none=True)
    return found
