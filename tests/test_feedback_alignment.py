"""Feedback alignment and direct feedback alignment against plain autograd and formulas written out by hand."""

import pytest
import torch
import torch.nn.functional as F
from rule_helpers import CLASSES, build, data, gradients, network, parameters, pendings, same, state
from torch import nn

from blocklocal import BlockLocal, adam, split
from blocklocal.rules.feedback_alignment import FeedbackLayers

CONVOLUTIONS = {
    "plain": {"kernel_size": 3},
    "stride": {"kernel_size": 3, "stride": 2, "padding": 1},
    "rectangle": {"kernel_size": (3, 2), "stride": (1, 2), "padding": (1, 0)},
    "groups": {"kernel_size": 3, "groups": 2, "padding": 1},
    "dilation": {"kernel_size": 3, "dilation": 2, "padding": 2},
    "no-bias": {"kernel_size": 1, "bias": False},
    "same": {"kernel_size": 3, "padding": "same"},
    "same-even": {"kernel_size": 4, "padding": "same"},
    "valid": {"kernel_size": 3, "padding": "valid"},
    "reflect": {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
}


def set_to_forward_weights(context, block):
    """Feedback weights equal to the weights they stand for."""
    buffers, layers = (
        dict(context.named_buffers()),
        [m for m in block.modules() if isinstance(m, nn.Linear | nn.Conv2d)],
    )
    assert len(buffers) == len(layers)
    for buffer, layer in zip(buffers.values(), layers, strict=True):
        buffer.copy_(layer.weight.detach())


def grads(layer, x, forward_context=None):
    """Gradients of a weighted sum of the output: of the input, then of every parameter."""
    x = x.clone().requires_grad_()
    weight = torch.randn(layer(x).shape, generator=torch.Generator().manual_seed(3))
    if forward_context is None:
        output = layer(x)
    else:
        with forward_context.context(layer):
            output = layer(x)
    return output, torch.autograd.grad((output * weight).sum(), [x, *layer.parameters()]), weight


def close(a, b):
    return all(torch.allclose(p, q, rtol=1e-4, atol=1e-5) for p, q in zip(a, b, strict=True))


def final_loss(rule):
    """Training loss of one hidden layer after 150 steps on the same 32 samples."""
    net = network("mlp", rule, blocks=2, optimizer=adam(lr=0.01), options={"depth": 1})
    x, y = data(samples=32)
    return [net.step(x, y)[-1].loss.item() for _ in range(150)][-1]


class TestLayers:
    @pytest.mark.parametrize("kind", CONVOLUTIONS)
    def test_convolution_with_its_own_weight_as_feedback_is_backprop(self, kind):
        torch.manual_seed(0)
        layer, x = nn.Conv2d(4, 6, **CONVOLUTIONS[kind]), torch.randn(3, 4, 7, 8)
        forward_context = FeedbackLayers(layer)
        set_to_forward_weights(forward_context, layer)
        plain, fed = grads(layer, x), grads(layer, x, forward_context)
        assert torch.allclose(plain[0], fed[0], atol=1e-6)
        assert close(plain[1], fed[1])

    @pytest.mark.parametrize("shape", [(3, 4), (3, 5, 4)])
    @pytest.mark.parametrize("bias", [True, False])
    def test_linear_layer_with_its_own_weight_as_feedback_is_backprop(self, shape, bias):
        torch.manual_seed(0)
        layer, x = nn.Linear(4, 6, bias=bias), torch.randn(*shape)
        forward_context = FeedbackLayers(layer)
        set_to_forward_weights(forward_context, layer)
        plain, fed = grads(layer, x), grads(layer, x, forward_context)
        assert torch.equal(plain[0], fed[0])
        assert close(plain[1], fed[1])

    @pytest.mark.parametrize("kind", CONVOLUTIONS)
    def test_other_feedback_changes_the_gradient_of_the_input_alone(self, kind):
        torch.manual_seed(0)
        layer, x = nn.Conv2d(4, 6, **CONVOLUTIONS[kind]), torch.randn(3, 4, 7, 8)
        forward_context = FeedbackLayers(layer)
        plain, fed = grads(layer, x), grads(layer, x, forward_context)
        assert torch.allclose(plain[0], fed[0], atol=1e-6)
        assert not torch.allclose(plain[1][0], fed[1][0])
        assert close(plain[1][1:], fed[1][1:])

    def test_the_input_of_a_linear_layer_gets_the_error_through_the_feedback_weight(self):
        torch.manual_seed(0)
        layer, x = nn.Linear(4, 6), torch.randn(3, 4)
        forward_context = FeedbackLayers(layer)
        (feedback,) = forward_context.buffers()
        _, found, error = grads(layer, x, forward_context)
        assert torch.allclose(found[0], error @ feedback, atol=1e-6)

    def test_the_input_of_a_convolution_gets_the_error_through_the_feedback_kernel(self):
        torch.manual_seed(0)
        layer, x = nn.Conv2d(4, 6, 3, 2, 1), torch.randn(3, 4, 7, 7)
        forward_context = FeedbackLayers(layer)
        (feedback,) = forward_context.buffers()
        _, found, error = grads(layer, x, forward_context)
        assert torch.allclose(found[0], F.conv_transpose2d(error, feedback, stride=2, padding=1), atol=1e-5)

    def test_layers_outside_the_block_keep_their_gradients(self):
        torch.manual_seed(0)
        inside, outside, x = nn.Linear(4, 4), nn.Linear(4, 4), torch.randn(3, 4, requires_grad=True)
        with FeedbackLayers(inside).context(inside):
            total = outside(x).sum()
        (found,) = torch.autograd.grad(total, x)
        assert torch.equal(found, outside.weight.detach().sum(0).expand(3, 4))

    @pytest.mark.parametrize("name", ["context", "half", "a"])
    def test_any_name_of_a_layer_will_do(self, name):
        class Named(nn.Module):
            def __init__(self):
                super().__init__()
                self.add_module("rest", nn.Linear(2, 2))
                setattr(self, name, nn.Linear(2, 2))

        block = Named()
        assert len(FeedbackLayers(block).context(block).feedback) == 2


class TestNetworks:
    @pytest.mark.parametrize("architecture", ["mlp", "resnet18", "resnet50", "vgg8b", "sequential", "traced"])
    def test_with_the_forward_weights_as_feedback_a_step_has_the_gradients_of_backprop(self, architecture):
        fed, plain = network(architecture, "feedback-alignment"), network(architecture, "backprop")
        (learner,) = fed.learners
        set_to_forward_weights(learner.forward_context, learner.block)
        x, y = data(architecture)
        (found,), (expected,) = gradients(fed, x, y), gradients(plain, x, y)
        for name, gradient in expected.items():
            assert torch.allclose(found[name], gradient, rtol=1e-3, atol=1e-6 + 1e-4 * gradient.abs().max()), name

    @pytest.mark.parametrize("architecture", ["mlp", "resnet18", "traced"])
    def test_feedback_weights_never_change_and_forward_weights_do(self, architecture):
        net = network(architecture, "feedback-alignment")
        (learner,) = net.learners
        feedback, weights = state(learner.forward_context), parameters(learner.block)
        for _ in range(3):
            net.step(*data(architecture))
        assert same(state(learner.forward_context), feedback)
        assert not any(torch.equal(p, weights[name]) for name, p in learner.block.named_parameters() if p.dim() > 1)
        assert not list(learner.forward_context.parameters())

    @pytest.mark.parametrize("architecture", ["mlp", "resnet18", "traced"])
    def test_forward_values_are_those_of_the_network_itself(self, architecture):
        net = network(architecture, "feedback-alignment")
        x, y = data(architecture)
        (pending,) = pendings(net, x, y)
        reference = build(architecture).train()
        assert torch.equal(pending.output, reference(x))

    @pytest.mark.parametrize("architecture", ["resnet18", "resnet50", "resnet110"])
    def test_errors_reach_the_first_layer_of_a_deep_network_at_the_scale_of_backprop(self, architecture):
        norms = []
        for rule in ("feedback-alignment", "backprop"):
            (found,) = gradients(network(architecture, rule, options={"width": 8}), *data(architecture, samples=16))
            norms.append(next(g for name, g in found.items() if name.endswith("stem.conv.weight")).norm())
        assert 0.1 < norms[0] / norms[1] < 10

    def test_two_layers_learn_by_the_written_out_rule(self):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, CLASSES))
        net = BlockLocal(split(model, 2), classes=CLASSES, rule="feedback-alignment", example=torch.zeros(2, 4))
        x, y = torch.randn(8, 4), torch.randint(CLASSES, (8,))
        _, second = net.learners[0].forward_context.buffers()
        h = torch.tanh(model[0](x))
        error = (model[2](h).softmax(1) - F.one_hot(y, CLASSES)) / 8
        hidden = (error @ second) * (1 - h**2)
        (found,) = gradients(net, x, y)
        first, last = [g for g in found.values() if g is not None and g.dim() == 2]
        assert torch.allclose(first, hidden.T @ x, atol=1e-6)
        assert torch.allclose(last, error.T @ h, atol=1e-6)

    @pytest.mark.parametrize("architecture", ["mlp", "resnet18"])
    def test_bfloat16_autocast_keeps_the_feedback_route(self, architecture):
        fed, plain = network(architecture, "feedback-alignment"), network(architecture, "backprop")
        x, y = data(architecture)
        for net in (fed, plain):
            net.autocast(torch.bfloat16)
        (other,) = gradients(fed, x, y)
        set_to_forward_weights(fed.learners[0].forward_context, fed.learners[0].block)
        (found,), (expected,) = gradients(fed, x, y), gradients(plain, x, y)
        weights = [name for name, gradient in expected.items() if gradient.dim() > 1]
        for name in weights:
            assert torch.isfinite(found[name]).all()
            assert found[name].dtype == torch.float32
            assert F.cosine_similarity(found[name].flatten(), expected[name].flatten(), 0) > 0.98, name
        assert F.cosine_similarity(other[weights[0]].flatten(), expected[weights[0]].flatten(), 0) < 0.9

    def test_it_learns_more_than_the_frozen_control(self):
        assert final_loss("feedback-alignment") < 0.3 * final_loss("frozen")


class TestDirectFeedback:
    @pytest.mark.parametrize("architecture", ["mlp", "resnet18", "sequential", "traced"])
    def test_a_hidden_block_gets_the_output_error_through_its_own_fixed_matrix(self, architecture):
        net = network(architecture, "direct-feedback-alignment")
        x, y = data(architecture)
        runs = pendings(net, x, y)
        error = (runs[-1].output.softmax(1) - F.one_hot(y, CLASSES)).detach() / len(x)
        expected = {}
        for learner, run in zip(net.learners[:-1], runs, strict=False):
            scale = learner.local.message_scale
            at_output = error @ (learner.local.twin.network.weight.T * scale)  # e·B_k, [B, U]
            if run.output.dim() == 4:  # the same for all positions, as from an average over them
                at_output = at_output[:, :, None, None].expand_as(run.output) / run.output[0, 0].numel()
            own = dict(learner.block.named_parameters(prefix="block"))
            found = torch.autograd.grad(run.output, list(own.values()), at_output)
            expected[learner.index] = dict(zip(own, found, strict=True))
        found = gradients(net, x, y)
        for k, own in expected.items():
            for name, gradient in own.items():
                assert torch.allclose(found[k][name], gradient, rtol=1e-4, atol=1e-6), name

    def test_the_last_block_learns_as_in_plain_autograd(self):
        net = network("mlp", "direct-feedback-alignment")
        x, y = data()
        last = pendings(net, x, y)[-1]
        weight = next(p for p in net.learners[-1].block.parameters() if p.dim() == 2)
        (expected,) = torch.autograd.grad(F.cross_entropy(last.output, y), weight)
        found = gradients(net, x, y)[-1]
        assert any(g.shape == expected.shape and torch.allclose(g, expected, atol=1e-7) for g in found.values())

    def test_its_matrices_never_change(self):
        net = network("mlp", "direct-feedback-alignment")
        before = [state(learner.local) for learner in net.learners]
        for _ in range(3):
            net.step(*data())
        assert all(same(state(learner.local), kept) for learner, kept in zip(net.learners, before, strict=True))

    def test_it_learns_more_than_the_frozen_control(self):
        assert final_loss("direct-feedback-alignment") < 0.3 * final_loss("frozen")

    def test_binary_labels_send_their_error_through_both_rows_of_each_label(self):
        """p(yes) is the two-way softmax of a pair of rows, so the error is −e at "no" and e at "yes"."""
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
        settings = {"rule": "direct-feedback-alignment", "example": torch.zeros(2, 4)}
        net = BlockLocal(split(model, 2), labels=3, **settings)
        x, y = torch.randn(8, 4), torch.randint(2, (8, 3))
        runs = pendings(net, x, y)
        error = (runs[-1].output.sigmoid() - y).detach() / y.numel()
        weight = net.learners[0].local.twin.network.weight * net.learners[0].local.message_scale  # [U, 2L]
        at_output = error @ (weight[:, 1::2] - weight[:, 0::2]).T
        (expected,) = torch.autograd.grad(runs[0].output, model[0].weight, at_output)
        found = next(g for g in gradients(net, x, y)[0].values() if g is not None and g.shape == expected.shape)
        assert torch.allclose(found, expected, atol=1e-7)


def test_keyword_calls_of_a_users_module_are_routed_too():
    class Keywords(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 4))

        def forward(self, x):
            return nn.functional.linear(input=x, weight=self.weight)

    block = Keywords()
    with FeedbackLayers(block).context(block):
        assert block(torch.ones(2, 4)).shape == (2, 3)
