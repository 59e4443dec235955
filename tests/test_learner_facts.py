"""What one block does with its step, looked at without a network around it."""

from __future__ import annotations

import pytest
import torch
from rule_helpers import batch_of, data, network

from blocklocal import sgd
from blocklocal._common.errors import InputError
from blocklocal.rules.base import receive, target_messages


def first_block(**settings):
    """(the network, its first block, its target message, a batch)."""
    net = network("mlp", **settings)
    net.train()
    x, y = data()
    batch = batch_of(net, x, y)
    return net, net.learners[0], target_messages(net.learners, batch.rows)[0], batch


@pytest.mark.parametrize("reach_back", [False, True])
def test_a_block_cuts_what_arrives_from_its_graph_whoever_sent_it(reach_back):
    """The sender cuts its message too; a caller's own tensor, or a sender that forgets it, must not matter."""
    _, learner, message, batch = first_block()
    weight = torch.ones(1, requires_grad=True)
    arriving = batch.x * weight
    pending = receive(learner, arriving, batch, message, reach_back)
    assert pending.source.grad_fn is None
    assert pending.source.requires_grad == reach_back
    learner.local_backward(pending)
    assert weight.grad is None
    assert any(p.grad is not None for p in learner.block.parameters())


@pytest.mark.parametrize("image", [True, False], ids=["with the image", "alone"])
def test_the_input_that_a_block_reconstructs_is_data(image):
    """Its gradient at the input, which the block before learns from, is that of the output alone."""
    _, learner, message, batch = first_block(reconstruction=1.0, reconstruct="input")
    seen = {"context": batch.context, "image": batch.x if image else None}
    pending = learner.receive(batch.x, batch.y, message, reach_back=True, **seen)
    source = batch.x.clone().requires_grad_()
    output = learner(source)
    wanted = {"input": batch.x.clone(), "image": batch.x}
    loss = learner.local(output, batch.y, message=message, wanted=wanted, mix=1.0).loss
    (expected,) = torch.autograd.grad(loss, source)
    torch.testing.assert_close(learner.local_backward(pending), expected, rtol=0, atol=0)


def test_a_step_leaves_the_tensor_that_arrived_as_it_was():
    _, learner, message, batch = first_block()
    arriving = batch.x.clone()
    receive(learner, arriving, batch, message, reach_back=True)
    assert torch.equal(arriving, batch.x)
    assert not arriving.requires_grad
    assert arriving.grad is None


def test_gradients_are_clipped_at_the_norm_that_was_asked_for():
    _, learner, message, batch = first_block()
    learner.configure(sgd(lr=1.0, momentum=0.0, clip=1e-3), "constant", 1)
    before = [p.detach().clone() for p in learner.trainable()]
    learner.local_backward(receive(learner, batch.x, batch, message))
    learner.update()
    moved = torch.cat([(p.detach() - kept).flatten() for p, kept in zip(learner.trainable(), before, strict=True)])
    assert moved.norm().item() == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.parametrize("scope", ["local", "neighbour"])
def test_what_a_step_returns_is_data(scope):
    """A program that keeps the results of all steps keeps no graph with them."""
    net = network("mlp", scope=scope, readout=1, reconstruction=1.0, similarity=0.5)
    for result in net.step(*data()):
        told = [result.loss, *result.parts.values(), result.scores, result.message_size]
        assert not any(value.requires_grad for value in told if value is not None)


def test_a_schedule_begun_anew_starts_at_its_first_rate_and_keeps_the_momenta():
    net, learner, _, batch = first_block()
    recipe = sgd(lr=0.1, momentum=0.9)
    learner.configure(recipe, "one-cycle", 4)
    first = learner.optimizer.param_groups[0]["lr"]
    for _ in range(3):
        fresh = target_messages(net.learners, batch.rows)[0]
        learner.local_backward(receive(learner, batch.x, batch, fresh))
        learner.update()
    kept = [state["momentum_buffer"].clone() for state in learner.optimizer.state.values()]
    assert learner.optimizer.param_groups[0]["lr"] != first
    learner.begin_schedule(recipe, "one-cycle")
    assert learner.optimizer.param_groups[0]["lr"] == first
    assert learner.schedule.last_epoch == 0
    now = [state["momentum_buffer"] for state in learner.optimizer.state.values()]
    assert kept
    assert all(torch.equal(a, b) for a, b in zip(kept, now, strict=True))


def test_a_block_that_does_not_train_has_no_schedule_to_begin_anew():
    learner = network("mlp", "frozen").learners[0]
    learner.begin_schedule(sgd(lr=0.1), "one-cycle")
    assert learner.optimizer is None


def test_a_readout_reads_the_mean_of_the_forward_message():
    """As the next block would; the message of a Bernoulli block is a logit, its mean the sigmoid."""
    _net, learner, _, _ = first_block(family="bernoulli", readout=1)
    a = torch.randn(3, 4)
    torch.testing.assert_close(learner.local.features(a), a.sigmoid())


def test_a_greedy_block_predicts_by_its_classifier_without_a_twin():
    learner = network("mlp", "greedy").learners[0]
    assert learner.twin is None
    assert learner.local.predicts


class Refusing(torch.nn.Linear):
    """Raises what it is given."""

    said = ""

    def forward(self, x):
        raise ValueError(self.said)


@pytest.mark.parametrize(
    ("said", "expected"),
    [("Expected more than 1 value per channel when training", InputError), ("no such thing", ValueError)],
)
def test_a_batch_too_small_for_batchnorm_is_explained_and_no_other_error_is_taken_for_it(said, expected):
    _, learner, message, batch = first_block()
    learner.block = Refusing(1, 1)
    learner.block.said = said
    with pytest.raises(ValueError, match=r"block 1|no such thing") as caught:
        receive(learner, batch.x, batch, message)
    assert type(caught.value) is expected


def test_a_block_alone_asks_for_no_gradient_at_its_input_unless_it_is_told_to():
    _, learner, message, batch = first_block()
    assert not learner.receive(batch.x, batch.y, message, context=batch.context).source.requires_grad


def test_a_gradient_that_arrives_at_a_block_whose_weights_the_user_has_frozen_changes_nothing():
    _, learner, message, batch = first_block()
    learner.block.requires_grad_(False)
    pending = receive(learner, batch.x, batch, message)
    learner.outer_backward(pending, torch.ones_like(pending.output))
    assert all(p.grad is None for p in learner.block.parameters())


def test_an_update_leaves_no_memory_to_gradients():
    _, learner, message, batch = first_block()
    learner.local_backward(receive(learner, batch.x, batch, message))
    assert any(p.grad is not None for p in learner.parameters())
    learner.update()
    assert all(p.grad is None for p in learner.parameters())
