"""One battery over every rule and every model; then each rule against its own definition written out by hand."""

import copy

import pytest
import torch
import torch.nn.functional as F
from batteries import thinned
from rule_helpers import (
    ALL_RULES,
    ARCHITECTURES,
    CLASSES,
    build,
    data,
    finite,
    gradients,
    network,
    parameters,
    pendings,
    same,
    state,
)
from torch import nn

from blocklocal import BlockLocal, adam, sgd, split
from blocklocal.block.objectives import evidence
from blocklocal.rules import RULES, Rule
from blocklocal.rules.base import local_step

STEPS = 4


def running(block):
    """BatchNorm's running statistics."""
    return {name: t.clone() for name, t in block.named_buffers() if "running" in name}


@pytest.mark.parametrize(("rule", "architecture"), thinned(ALL_RULES, ARCHITECTURES))
class TestEveryRuleOnEveryModel:
    def test_a_step_moves_all_weights_of_the_blocks_that_learn_and_of_no_other(self, rule, architecture):
        net = network(architecture, rule, optimizer=sgd(lr=0.1))
        x, y = data(architecture)
        before = [parameters(learner) for learner in net.learners]
        assert finite(net.step(x, y))
        assert len(net.learners) == (1 if RULES.get(rule).whole else 3)
        for learner, kept in zip(net.learners, before, strict=True):
            for name, p in learner.named_parameters():
                # a bias in front of a BatchNorm has no gradient but rounding
                if learner.trains and p.requires_grad and p.dim() > 1:
                    assert not torch.equal(p, kept[name]), name
                if not learner.trains or not p.requires_grad:
                    assert torch.equal(p, kept[name]), name
            assert all(torch.isfinite(p).all() for p in learner.parameters())
            assert all(p.grad is None for p in learner.parameters())

    def test_it_predicts_and_gives_the_users_module_back(self, rule, architecture):
        net = network(architecture, rule)
        x, y = data(architecture)
        net.step(x, y)
        prediction = net.predict(x)
        assert prediction.probabilities.shape == (len(x), CLASSES)
        assert torch.allclose(prediction.probabilities.sum(-1), torch.ones(len(x)))
        assert len(prediction.blocks) == len(net.learners)
        plain = net.to_plain()
        assert list(plain.state_dict()) == list(build(architecture).state_dict())
        assert torch.allclose(plain(x).softmax(-1), prediction.probabilities, atol=1e-6)


@pytest.mark.parametrize("rule", ALL_RULES)
class TestEveryRule:
    @pytest.mark.parametrize("scope", ["local", "neighbour"])
    def test_runs_with_one_seed_are_equal_and_other_seeds_differ(self, rule, scope):
        def weights(seed, noise):
            net = network("vgg8b", rule, seed=seed, scope=scope, options={"dropout": 0.3}, **parts)
            for step in range(2):
                torch.manual_seed(noise)  # the state of the global generator is nobody's business
                net.step(*data("vgg8b", seed=step))
            return state(net)

        parts = {"readout": 1, "reconstruction": 0.5, "similarity": 0.5}
        first = weights(0, noise=1)
        assert same(first, weights(0, noise=2))
        assert not same(first, weights(1, noise=1))

    def test_a_step_leaves_the_global_generator_alone(self, rule):
        net = network("vgg8b", rule, options={"dropout": 0.3})
        before = torch.get_rng_state()
        net.step(*data("vgg8b"))
        assert torch.equal(torch.get_rng_state(), before)

    @pytest.mark.parametrize("architecture", ["mlp", "resnet18"])
    def test_a_bfloat16_step_is_finite_and_keeps_float32_weights(self, rule, architecture):
        net = network(architecture, rule, readout=1, reconstruction=1.0, similarity=1.0)
        net.autocast(torch.bfloat16)
        seen = []
        net.learners[-1].block.register_forward_hook(lambda *given: seen.append(given[2].dtype))
        results = [net.step(*data(architecture)) for _ in range(2)][-1]
        assert finite(results)
        assert seen == [torch.bfloat16] * 2
        assert all(p.dtype == torch.float32 and torch.isfinite(p).all() for p in net.parameters())

    def test_weights_that_the_user_froze_stay(self, rule):
        net_of = {"classes": CLASSES, "rule": rule, "optimizer": sgd(lr=0.1, weight_decay=0.1)}
        model = build("mlp")
        for name, p in model.named_parameters():
            p.requires_grad_(not name.startswith(("hidden2", "head")))  # all of the last block among them
        kept = parameters(model)
        net = BlockLocal(split(model, at=["hidden2", "hidden3", "head"]), **net_of)
        results = net.step(*data())
        assert finite(results)
        for name, p in model.named_parameters():
            if name.startswith(("hidden2", "head")):
                assert torch.equal(p, kept[name]), name

    def test_missing_targets_give_a_finite_step(self, rule):
        net = network("mlp", rule)
        x, y = data()
        y[:2] = -100
        assert finite(net.step(x, y))
        assert finite(net.step(x, torch.full_like(y, -100)))
        assert all(torch.isfinite(p).all() for p in net.parameters())

    def test_binary_labels_train(self, rule):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
        net = BlockLocal(split(model, 3), labels=3, rule=rule, example=torch.zeros(2, 4), optimizer=adam(lr=0.02))
        x = torch.randn(32, 4)
        y = (x[:, :3] > 0).long()
        losses = [net.step(x, y)[-1].loss.item() for _ in range(150)]
        assert losses[-1] < 0.85 * losses[0]


PLAIN_CASES = [("mlp", "block-local", 1), ("resnet18", "block-local", 1), ("traced", "block-local", 1),
    ("mlp", "greedy", 1), ("mlp", "frozen", 1),
    ("mlp", "backprop", 4), ("resnet18", "backprop", 4), ("sequential", "backprop", 3)]  # fmt: skip


class TestBackpropagation:
    """K = 1 and rule backprop against a loop of plain PyTorch, bit for bit."""

    @pytest.mark.parametrize("kind", ["sgd", "adam"])
    @pytest.mark.parametrize(("architecture", "rule", "blocks"), PLAIN_CASES)
    def test_it_equals_a_plain_loop_step_for_step(self, architecture, rule, blocks, kind):
        recipe = sgd(lr=0.1, weight_decay=5e-4) if kind == "sgd" else adam(lr=0.01)
        net = network(architecture, rule, blocks)
        net.configure(recipe, "one-cycle", STEPS)
        assert len(net.learners) == 1
        plain = build(architecture).train()
        if kind == "sgd":
            rates = {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}
            optimizer = torch.optim.SGD(plain.parameters(), **rates)
        else:
            optimizer = torch.optim.Adam(plain.parameters(), lr=0.01)
        peak = optimizer.param_groups[0]["lr"]
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, total_steps=STEPS)
        for step in range(STEPS - 1):
            x, y = data(architecture, seed=step)
            (result,) = net.step(x, y)
            loss = F.cross_entropy(plain(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            assert torch.equal(result.loss, loss.detach())
            assert same(state(net.split.model), state(plain)), f"step {step}"

    def test_four_block_local_blocks_are_something_else(self):
        """The control of the equalities above."""
        local, whole = network("mlp", blocks=4), network("mlp", blocks=1)
        for net in (local, whole):
            net.step(*data())
        assert not same(state(local.split.model), state(whole.split.model))


class TestFrozen:
    @pytest.mark.parametrize("architecture", ["mlp", "resnet18", "traced"])
    def test_hidden_weights_stay_bit_equal_while_batchnorm_follows_the_data(self, architecture):
        net = network(architecture, "frozen", optimizer=sgd(lr=0.1, weight_decay=0.1))
        first = [(parameters(u), running(u)) for u in net.learners]
        for _ in range(3):
            net.step(*data(architecture))
        for learner, (kept, statistics) in zip(net.learners, first, strict=True):
            assert same(parameters(learner), kept) == (learner is not net.learners[-1])
            now = running(learner)
            assert all(not torch.equal(now[name], statistics[name]) for name in now)
        assert running(net.learners[0])

    def test_its_statistics_are_those_of_running_the_data_through(self):
        net = network("mlp", "frozen")
        reference = copy.deepcopy(net.learners[0].block).train()
        for step in range(3):
            x, y = data(seed=step)
            net.step(x, y)
            reference(x)
        assert same(state(net.learners[0].block), state(reference))

    def test_its_last_block_learns_as_in_block_local(self):
        frozen, local = network("mlp", "frozen"), network("mlp")
        for net in (frozen, local):
            net.step(*data())
        assert same(state(frozen.learners[-1]), state(local.learners[-1]))

    def test_its_hidden_blocks_build_no_graph(self):
        runs = pendings(network("mlp", "frozen"), *data())
        assert [run.output.requires_grad for run in runs] == [False, False, True]


class TestTargetProjection:
    def test_it_equals_block_local_with_a_fixed_random_twin_and_the_projection_objective(self):
        net = network("resnet18", "target-projection")
        other = network("resnet18", "block-local", objective="projection", twin="dense")
        for learner in other.learners[:-1]:
            learner.local.twin.requires_grad_(False)
        other.configure(*other._optimisation)
        for step in range(3):
            for each in (net, other):
                each.step(*data("resnet18", seed=step))
        assert same(state(net), state(other))

    @pytest.mark.parametrize("architecture", ["mlp", "resnet18"])
    def test_its_update_is_direct_random_target_projection_written_out(self, architecture):
        """δ = B_y ⊙ f'(a): the target through a fixed matrix and the slope of the ReLU (Frenkel et al. 2021, eq. 5)."""
        net = network(architecture, "target-projection")
        x, y = data(architecture)
        expected = []
        for learner, run in zip(net.learners[:-1], pendings(net, x, y), strict=False):
            delta = F.one_hot(y, CLASSES).float() @ learner.local.twin.network.weight.T * learner.local.message_scale
            if run.output.dim() == 4:
                delta = delta[:, :, None, None] / run.output[0, 0].numel()
            error = -delta * (run.output > 0) / len(x)
            own = dict(learner.block.named_parameters(prefix="block"))
            expected.append(dict(zip(own, torch.autograd.grad(run.output, list(own.values()), error), strict=True)))
        for own, wanted in zip(gradients(net, x, y), expected, strict=False):
            for name, gradient in wanted.items():
                assert torch.allclose(own[name], gradient, rtol=1e-4, atol=1e-6), name

    def test_its_matrices_never_change(self):
        net = network("mlp", "target-projection", optimizer=sgd(lr=0.1, weight_decay=0.1))
        before = [state(learner.local) for learner in net.learners]
        net.step(*data())
        assert all(same(state(learner.local), kept) for learner, kept in zip(net.learners, before, strict=True))


class TestGreedy:
    @pytest.mark.parametrize("architecture", ["mlp", "resnet18", "traced"])
    def test_its_step_is_that_of_a_hand_written_local_classifier(self, architecture):
        net = network(architecture, "greedy", optimizer=sgd(lr=0.1))
        blocks = [copy.deepcopy(learner.block).train() for learner in net.learners]
        heads = [copy.deepcopy(learner.local.classifier) for learner in net.learners[:-1]]
        optimizers = []
        for block, head in zip(blocks, [*heads, nn.Identity()], strict=True):
            own = [*block.parameters(), *head.parameters()]
            optimizers.append(torch.optim.SGD(own, lr=0.1, momentum=0.9, nesterov=True))
        for step in range(3):
            x, y = data(architecture, seed=step)
            net.step(x, y)
            a = x
            for k, block in enumerate(blocks):
                a = block(a.detach())
                features = F.relu(a) if a.dim() == 2 else F.relu(a).mean((2, 3))
                loss = F.cross_entropy(heads[k](features) if k < 2 else a, y)
                optimizers[k].zero_grad()
                loss.backward()
                optimizers[k].step()
        for learner, block in zip(net.learners, blocks, strict=True):
            for (name, p), q in zip(learner.block.named_parameters(), block.parameters(), strict=True):
                assert torch.allclose(p, q, rtol=1e-4, atol=1e-5), name

    @pytest.mark.parametrize("architecture", ["mlp", "resnet18"])
    def test_its_logits_are_the_evidence_to_first_order_of_messages_that_are_the_classifier(self, architecture):
        net = network(architecture, "greedy", readout=1).eval()
        a, _ = data(architecture)
        for learner in net.learners[:-1]:
            a, local = learner.block(a), learner.local
            phi = local.latent(a, local.features(a))
            messages = local.classifier.weight.unsqueeze(1)
            expected = evidence(local.family, phi, messages, order="first") + local.classifier.bias
            assert torch.allclose(local.scores(a, None), expected, rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize("other", [{"twin": "mirrored"}, {"twin": "chain"}, {"objective": "variational"}])
    def test_it_ignores_twin_and_objective(self, other):
        nets = [network("resnet18", "greedy"), network("resnet18", "greedy", **other)]
        for net in nets:
            net.step(*data("resnet18"))
        assert same(state(nets[0]), state(nets[1]))


def test_a_rule_is_registered_once_and_carries_its_own_name():
    for name in ALL_RULES:
        assert RULES.get(name).name == name
        assert RULES.get(name).summary
    with pytest.raises(AssertionError):
        RULES.add("frozen", Rule("frozen", "again", local_step))
