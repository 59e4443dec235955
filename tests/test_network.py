"""The network as a user holds it: predictions, the plain module, set-up, copies, refused input."""

import copy
import pickle

import pytest
import torch
from rule_helpers import CLASSES, build, data, disturb, network, same, sequential, state
from torch import nn

from blocklocal import BlockLocal, Trainer, adam, sgd, split

KINDS = ["mlp", "resnet18", "vgg8b", "sequential", "traced"]
FULL = {"readout": 1, "reconstruction": 1.0, "similarity": 0.5}


def lazy(rule="block-local", **settings):
    """A network whose model does not say its input shape."""
    torch.manual_seed(0)
    return BlockLocal(split(sequential(), 3), classes=CLASSES, rule=rule, **{"readout": 0, **settings})


class TestPredict:
    @pytest.mark.parametrize("architecture", KINDS)
    def test_every_block_gives_probabilities_before_any_training(self, architecture):
        net = network(architecture)
        x, _ = data(architecture)
        prediction = net.predict(x)
        for each in (prediction, *prediction.blocks):
            assert each.probabilities.shape == (len(x), CLASSES)
            assert torch.allclose(each.probabilities.sum(1), torch.ones(len(x)))
            assert torch.equal(each.label, each.probabilities.argmax(1))
            assert torch.equal(each.confidence, each.probabilities.max(1).values)
        assert torch.equal(prediction.blocks[-1].probabilities, prediction.probabilities)

    @pytest.mark.parametrize("labels", [False, True])
    def test_all_blocks_together_say_their_normalised_geometric_mean(self, labels):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
        net = BlockLocal(split(model, 3), **({"labels": 3} if labels else {"classes": 3}))
        prediction = net.predict(torch.randn(8, 4))
        each = torch.stack([block.probabilities for block in prediction.blocks])
        mean = each.log().mean(0).exp()
        rest = (1 - each).log().mean(0).exp() if labels else mean.sum(1, keepdim=True) - mean
        assert len(each) == 3
        assert torch.allclose(prediction.combined.probabilities, mean / (mean + rest), atol=1e-6)

    @pytest.mark.parametrize("rule", ["frozen", "backprop"])
    def test_there_is_no_together_where_only_the_output_predicts(self, rule):
        assert network("mlp", rule).predict(data()[0]).combined is None

    @pytest.mark.parametrize(
        ("rule", "able"),
        [("frozen", [0, 0, 1]), ("backprop", [1]), ("greedy", [1, 1, 1]), ("target-projection", [1, 1, 1])],
    )
    def test_blocks_that_cannot_predict_say_nothing(self, rule, able):
        prediction = network("mlp", rule).predict(data()[0])
        assert [block is not None for block in prediction.blocks] == [bool(a) for a in able]

    def test_it_is_the_softmax_of_the_evidence_in_evaluation_mode(self):
        net = network("vgg8b", options={"dropout": 0.5})
        x, y = data("vgg8b")
        net.step(x, y)
        net.eval()
        logits = net.block_logits(x)
        net.train()
        before = state(net)
        first, second = net.predict(x), net.predict(x)
        for k, scores in enumerate(logits):
            assert torch.equal(first.blocks[k].probabilities, scores.softmax(-1))
            assert torch.equal(first.blocks[k].probabilities, second.blocks[k].probabilities)
        assert same(before, state(net))
        assert net.training
        assert all(module.training for module in net.modules())

    def test_one_sample_alone_gets_the_same_as_in_a_batch(self):
        net = network("resnet18", **FULL)
        x, y = data("resnet18")
        net.step(x, y)
        assert torch.allclose(net.predict(x[:1]).probabilities, net.predict(x).probabilities[:1], atol=1e-6)

    def test_the_first_prediction_of_a_network_without_shapes_is_in_evaluation_mode_too(self):
        net, (x, _) = lazy(**FULL), data("sequential")
        first, second = net.predict(x), net.predict(x)
        for a, b in zip(first.blocks, second.blocks, strict=True):
            assert torch.equal(a.probabilities, b.probabilities)

    def test_labels_are_judged_one_by_one(self):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
        net = BlockLocal(split(model, 2), labels=3)
        x = torch.randn(8, 4)
        prediction = net.predict(x)
        assert [block.probabilities.shape for block in prediction.blocks] == [(8, 3), (8, 3)]
        assert torch.allclose(prediction.probabilities, net.to_plain()(x).sigmoid())


class TestPlain:
    @pytest.mark.parametrize("architecture", KINDS)
    def test_it_predicts_the_same_under_the_users_names_and_exports(self, architecture):
        net = network(architecture, optimizer=sgd(lr=0.01), **FULL)
        x, y = data(architecture)
        for _ in range(2):
            net.step(x, y)
        plain, original = net.to_plain(), build(architecture)
        assert type(plain) is type(original)
        assert list(plain.state_dict()) == list(original.state_dict())
        assert not same(state(plain), state(original))
        original.load_state_dict(plain.state_dict())
        probabilities = net.predict(x).probabilities
        for module in (plain, original.eval(), torch.export.export(plain, (x,)).module()):
            assert torch.allclose(module(x).softmax(-1), probabilities, atol=1e-6)

    def test_it_is_a_copy(self):
        net = network("mlp")
        plain = net.to_plain()
        kept = state(plain)
        net.step(*data())
        assert same(state(plain), kept)
        assert not plain.training


class TestSetUp:
    def test_twins_are_made_at_the_first_batch_where_the_shape_is_not_known(self):
        net, (x, y) = lazy(twin="mirrored", **FULL), data("sequential")
        assert net.learners == []
        assert len(list(net.parameters())) == len(list(sequential().parameters()))
        net.step(x, y)
        assert len(net.learners) == 3
        assert len(list(net.parameters())) > len(list(sequential().parameters()))

    def test_early_and_late_set_up_train_alike(self):
        x, y = data("sequential")
        late = lazy(optimizer=adam(lr=0.01), **FULL)
        early = lazy(optimizer=adam(lr=0.01), example=x, **FULL)
        for net in (late, early):
            net.step(x, y)
            net.step(x, y)
        assert same(state(late), state(early))

    def test_a_recipe_given_before_the_first_batch_is_kept(self):
        net, (x, y) = lazy(), data("sequential")
        net.configure(adam(lr=0.02), "cosine", 7)
        net.autocast(torch.bfloat16)
        net.step(x, y)
        for learner in net.learners:
            assert isinstance(learner.optimizer, torch.optim.Adam)
            assert learner.schedule.T_max == 7
            assert learner.autocast == torch.bfloat16

    def test_set_up_leaves_weights_statistics_and_the_global_generator_alone(self):
        model = build("resnet18")
        before, generator = state(model), torch.get_rng_state()
        BlockLocal(split(model, 3), classes=CLASSES, twin="mirrored", **FULL)
        assert same(state(model), before)
        assert torch.equal(torch.get_rng_state(), generator)

    def test_moving_it_keeps_it_working(self):
        net = network("mlp").to("cpu").to(memory_format=torch.channels_last)
        net.step(*data())
        assert net.predict(data()[0]).probabilities.device.type == "cpu"

    def test_forward_gives_the_logits_of_the_output_with_an_ordinary_graph(self):
        net = network("mlp")
        logits = net(data()[0])
        logits.sum().backward()
        assert logits.shape == (4, CLASSES)
        assert all(p.grad is not None for learner in net.learners for p in learner.block.parameters())


class TestDropoutStreams:
    def masks(self, net, steps=2):
        """What dropout leaves standing in every block, step by step."""
        seen = {learner.index: [] for learner in net.learners}
        for learner in net.learners:
            for module in learner.block.modules():
                if isinstance(module, nn.Dropout | nn.Dropout2d):
                    module.register_forward_hook(lambda m, a, out, k=learner.index: seen[k].append(out != 0))
        x, y = data("vgg8b")
        for _ in range(steps):
            net.step(torch.ones_like(x), y)
        return seen

    def net(self, earlier=0.5, seed=0):
        """Blocks of one input each; `earlier` is the dropout of the blocks before the last."""
        torch.manual_seed(0)
        layers = []
        for p in (earlier, earlier, 0.5):
            dropout = [nn.Dropout(p)] if p else []
            layers.append(nn.Sequential(*dropout, nn.Linear(256, 256 if len(layers) < 2 else CLASSES)))
        layers[0].insert(0, nn.Flatten())
        parts = split(Chain(layers), 3)
        example = torch.ones(2, 1, 16, 16)
        return BlockLocal(parts, classes=CLASSES, seed=seed, example=example, optimizer=sgd(lr=1e-6), readout=0)

    def test_they_do_not_depend_on_draws_in_other_blocks_or_outside(self):
        torch.manual_seed(1)
        first = self.masks(self.net())
        torch.manual_seed(2)
        torch.rand(5)
        assert all(torch.equal(a, b) for a, b in zip(first[2], self.masks(self.net(earlier=0.0))[2], strict=True))
        assert all(torch.equal(a, b) for a, b in zip(first[0], self.masks(self.net())[0], strict=True))

    def test_they_differ_between_steps_blocks_and_seeds(self):
        masks = self.masks(self.net())
        assert not torch.equal(masks[2][0], masks[2][1])
        assert not torch.equal(masks[1][0], masks[2][0])
        assert not torch.equal(masks[2][0], self.masks(self.net(seed=1))[2][0])


class Chain(nn.Module):
    """Units in a list, with no activation between them."""

    def __init__(self, layers):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def units(self):
        return [(f"layer{i}", layer) for i, layer in enumerate(self.layers)]

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


class TestCopies:
    @pytest.mark.parametrize("rule", ["block-local", "feedback-alignment", "target-projection"])
    @pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
    def test_a_copy_goes_on_as_the_original_and_apart_from_it(self, rule, duplicate):
        net = network("resnet18", rule, optimizer=adam(lr=0.01))
        net.configure(adam(lr=0.01), "one-cycle", 10)
        x, y = data("resnet18")
        net.step(x, y)
        other, kept = duplicate(net), state(net)
        other.step(x, y)
        assert same(state(net), kept)
        net.step(x, y)
        assert same(state(net), state(other))
        assert same(state(other.to_plain()), state(net.to_plain()))

    @pytest.mark.parametrize("rule", ["block-local", "greedy", "feedback-alignment", "direct-feedback-alignment"])
    def test_state_dict_carries_all_that_predictions_depend_on(self, rule):
        net, other = network("resnet18", rule, **FULL), network("resnet18", rule, seed=5, **FULL)
        x, y = data("resnet18")
        net.step(x, y)
        disturb(other)
        other.load_state_dict(net.state_dict())
        for a, b in zip(net.block_logits(x), other.block_logits(x), strict=True):
            assert (a is None) == (b is None)
            assert a is None or torch.equal(a, b)
        assert list(net.state_dict()) == list(other.state_dict())


@pytest.mark.parametrize("when", ["before BlockLocal, example", "before BlockLocal", "before the first batch"])
@pytest.mark.parametrize("rule", ["block-local", "backprop"])
def test_a_part_in_evaluation_mode_stays_there_when_shapes_become_known(when, rule):
    model = build("sequential")
    x, y = data("sequential")
    norm = model[1]
    if when.startswith("before BlockLocal"):
        norm.eval()
    net = BlockLocal(split(model, 2), classes=CLASSES, rule=rule, example=x if when.endswith("example") else None)
    norm.eval()
    before = norm.running_mean.clone()
    net.step(x, y)
    assert [part for part in net.modules() if not part.training] == [norm]
    assert torch.equal(norm.running_mean, before)


@pytest.mark.parametrize("example", [True, False])
def test_a_model_in_evaluation_mode_is_put_in_training_mode(example):
    model, (x, y) = build("sequential").eval(), data("sequential")
    net = BlockLocal(split(model, 2), classes=CLASSES, example=x if example else None)
    net.step(x, y)
    assert all(part.training for part in net.modules())


def test_a_network_in_evaluation_mode_before_it_knows_its_shapes_predicts_in_it_throughout():
    net = BlockLocal(split(build("sequential"), 2), classes=CLASSES).eval()
    net.predict(data("sequential")[0])
    assert not any(part.training for part in net.modules())


def test_a_trainer_without_an_optimiser_takes_the_networks_own():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))
    net = BlockLocal(split(model, blocks=2), classes=3, optimizer=adam(lr=1e-3))
    assert net.message_sizes() == []  # shapes are not known yet
    Trainer(net, epochs=1).fit([(torch.randn(6, 4), torch.arange(6) % 3)])
    assert {type(learner.optimizer) for learner in net.learners} == {torch.optim.Adam}
