"""Oracles: torch's own attention, a change of one token, and the facts of autograd that hold for every model here."""

import math

import pytest
import torch
import torch.nn.functional as F
from rule_helpers import disturb, gradients, parameters, same, state

from blocklocal import BlockLocal, InputError, adam, sgd, split
from blocklocal._common.seeds import seeded
from blocklocal.block.normalisation import normaliser
from blocklocal.block.step import StepContext
from blocklocal.models.transformer import Attention, Transformer, sinusoids
from blocklocal.rules.base import Batch, receive, target_messages

TOKENS, LENGTH = 7, 6
WAYS = {
    "evidence": {"family": "gaussian", "normalise": "units"},
    "variational": {"objective": "variational", "family": "bernoulli", "normalise": "units"},
    "batch": {"objective": "variational", "family": "bernoulli", "normalise": "batch"},
    "readout": {"objective": "variational", "family": "bernoulli", "readout": 1},
}


def model(blocks=3, seed=0, **options):
    with seeded("model", seed):
        return Transformer(TOKENS, LENGTH, width=8, blocks=blocks, **options)


def network(blocks=3, optimizer=None, **settings):
    example = torch.zeros(2, LENGTH, dtype=torch.int64)
    cut = split(model(blocks), blocks)
    bare = {"readout": 0, **settings}
    return BlockLocal(cut, classes=TOKENS, example=example, optimizer=optimizer or sgd(lr=0.05), **bare)


def tokens(samples=4):
    generator = torch.Generator().manual_seed(1)
    x = torch.randint(TOKENS, (samples, LENGTH), generator=generator)
    return x, x.flip(1)


# --- the model


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_units_applied_in_order_equal_forward(blocks):
    net, (x, _) = model(blocks, heads=2), tokens()
    a = x
    for _, unit in net.units():
        a = unit(a)
    assert [name for name, _ in net.units()] == [f"layer{k + 1}" for k in range(blocks)]
    assert a.shape == (*x.shape, TOKENS)
    assert torch.equal(a, net(x))


def test_units_share_out_every_parameter_once():
    net = model()
    held = [id(p) for _, unit in net.units() for p in unit.parameters()]
    assert sorted(held) == sorted(id(p) for p in net.parameters())


@pytest.mark.parametrize(("causal", "heads"), [(False, 1), (True, 1), (True, 2)])
def test_attention_is_softmax_of_scaled_products(causal, heads):
    torch.manual_seed(0)
    attention, h = Attention(8, heads, causal, dropout=0.0), torch.randn(2, 5, 8)
    parts = [part.unflatten(-1, (heads, 8 // heads)).transpose(1, 2) for part in attention.inputs(h).chunk(3, -1)]
    scores = parts[0] @ parts[1].transpose(-1, -2) / (8 / heads) ** 0.5
    if causal:
        scores = scores.masked_fill(~torch.ones(5, 5).tril().bool(), -torch.inf)
    expected = attention.output((scores.softmax(-1) @ parts[2]).transpose(1, 2).flatten(2))
    assert torch.allclose(attention(h), expected, atol=1e-6)


@pytest.mark.parametrize("causal", [True, False])
def test_a_causal_model_cannot_see_the_future_and_another_can(causal):
    net, (x, _) = model(causal=causal), tokens()
    changed = x.clone()
    changed[:, 3] = (x[:, 3] + 1) % TOKENS
    moved = (net(x) != net(changed)).any(-1).any(0)
    assert moved.tolist() == [not causal] * 3 + [True] * 3


def test_positions_are_told_apart():
    net = model()
    answers = net(torch.zeros(1, LENGTH, dtype=torch.int64))[0]
    assert len({tuple(row.tolist()) for row in answers.detach()}) == LENGTH


def test_positions_start_as_the_sinusoids_of_the_first_transformer_and_are_learned():
    """Two implementations: sines and cosines here, the rotation by one place between neighbours there."""
    table = sinusoids(LENGTH, 8)
    for t in (0, 3):
        for i in range(4):
            angle = t / 10_000 ** (2 * i / 8)
            assert table[t, 2 * i : 2 * i + 2].tolist() == pytest.approx([math.sin(angle), math.cos(angle)], abs=1e-6)
    assert sinusoids(LENGTH, 7).shape == (LENGTH, 7)
    weight = model(positions="sinusoids").embedding.position.weight
    assert torch.equal(weight, table)
    assert weight.requires_grad


def test_shorter_sequences_are_the_beginning_of_longer_ones():
    net, (x, _) = model(causal=True), tokens()
    assert torch.allclose(net(x[:, :4]), net(x)[:, :4], atol=1e-6)


def test_the_head_may_have_other_classes_than_tokens():
    assert model(classes=3)(tokens()[0]).shape == (4, LENGTH, 3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"heads": 3}, "width 8 cannot be shared by 3 heads"),
        ({"heads": 0}, "heads must be a whole number of at least 1, not 0"),
        ({"blocks": 0}, "blocks must be a whole number of at least 1, not 0"),
        ({"positions": "sinusoid"}, "unknown positions 'sinusoid'. Did you mean 'sinusoids'"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1, not 1.0"),
    ],
)
def test_impossible_sizes_are_refused(options, words):
    with pytest.raises(InputError, match=words):
        model(**options)


def test_a_sequence_longer_than_the_positions_is_refused():
    with pytest.raises(InputError, match="sequences of 9 tokens, but the transformer was built for at most 6"):
        model()(torch.zeros(1, 9, dtype=torch.int64))


# --- blocks that learn by themselves


@pytest.mark.parametrize("way", WAYS)
def test_a_block_learns_the_same_whatever_the_later_blocks_are(way):
    plain, other = network(**WAYS[way]), network(**WAYS[way])
    for learner in other.learners[1:]:
        disturb(learner.block)
    for net in (plain, other):
        net.step(*tokens())
        net.step(*tokens())
    assert same(state(plain.learners[0]), state(other.learners[0]))
    assert not same(state(plain.learners[1]), state(other.learners[1]))


@pytest.mark.parametrize("way", WAYS)
def test_autograd_knows_no_way_from_a_loss_to_another_blocks_weights(way):
    net, (a, y) = network(**WAYS[way]), tokens()
    batch = Batch(a, y, torch.eye(TOKENS), StepContext())
    for k, (learner, message) in enumerate(zip(net.learners, target_messages(net.learners, batch.rows), strict=True)):
        pending = receive(learner, a, batch, message)
        for j, other in enumerate(net.learners):
            found = torch.autograd.grad(
                pending.result.loss, list(other.parameters()), allow_unused=True, retain_graph=True
            )
            assert any(g is not None for g in found) == (j == k), f"loss {k + 1} → block {j + 1}"
        a = pending.sent()


@pytest.mark.parametrize("way", WAYS)
def test_one_block_equals_backprop_bit_for_bit(way):
    local, whole = network(1, **WAYS[way]), network(1, rule="backprop")
    for net in (local, whole):
        net.step(*tokens())
        net.step(*tokens())
    assert same(parameters(local), parameters(whole))


def test_the_control_moves_the_last_block_alone_and_leaves_the_embedding():
    net = network(rule="frozen")
    before = [parameters(learner.block) for learner in net.learners]
    net.step(*tokens())
    assert [same(parameters(learner.block), old) for learner, old in zip(net.learners, before, strict=True)] == [
        True,
        True,
        False,
    ]


def test_it_learns_a_batch_by_evidence():
    net = network(optimizer=adam(lr=0.03), **WAYS["evidence"])
    x, y = tokens()
    for _ in range(50):
        net.step(x, y)
    prediction = net.predict(x)
    assert (prediction.label == y).float().mean() > 0.95
    assert [block.label.shape for block in prediction.blocks] == [y.shape] * 3


# --- the normalised stream


SHAPES = [(16, 8), (16, LENGTH, 8), (16, 8, 2, 3)]


def test_a_latent_normalised_over_units_is_what_the_next_layers_norm_reads():
    net, a = network(normalise="units", family="gaussian"), 3 + 5 * torch.randn(4, LENGTH, 8)
    local = net.learners[0].local
    read = local.read(a)
    assert torch.allclose(read, F.layer_norm(a, (8,)))
    assert torch.equal(local.latent(read, local.features(read)), read)
    assert torch.equal(network(family="gaussian", normalise="none").learners[0].local.read(a), a)


@pytest.mark.parametrize("shape", SHAPES)
def test_normalising_over_units_is_at_every_position_by_itself(shape):
    read = normaliser("units", torch.Size(shape))(3 + 5 * torch.randn(shape))
    units = read if len(shape) < 4 else read.movedim(1, -1)
    assert read.shape == shape
    assert_standard(units, -1)


@pytest.mark.parametrize("shape", SHAPES)
def test_normalising_over_the_batch_is_of_every_unit_at_every_position_by_itself(shape):
    """In evaluation by what was seen in training: a sample's value does not depend on its neighbours there."""
    torch.manual_seed(0)
    module, a = normaliser("batch", torch.Size(shape)), 3 + 5 * torch.randn(shape) * torch.rand(shape[1:])
    for _ in range(200):
        read = module(a)
    assert read.shape == shape
    assert_standard(read, 0)
    module.eval()
    assert torch.allclose(module(a), read, atol=0.2)  # of the whole population there, of the batch here
    assert torch.equal(module(a[:1]), module(a)[:1])


def assert_standard(h, dim):
    assert torch.allclose(h.mean(dim), torch.zeros(()), atol=1e-5)
    assert torch.allclose(h.var(dim, correction=0), torch.ones(()), atol=1e-2)


def test_statistics_of_the_batch_refuse_outputs_of_another_size():
    module = normaliser("batch", torch.Size((2, LENGTH, 8)))
    with pytest.raises(InputError, match=r"gave 16 values per sample where normalise='batch' has statistics of 48"):
        module(torch.zeros(4, 2, 8))


def test_an_unknown_normalisation_is_refused():
    with pytest.raises(InputError, match=r"unknown normalise 'layer'\..* Known: auto, batch, none, units"):
        network(normalise="layer")


@pytest.mark.parametrize("normalise", ["none", "units", "batch"])
def test_only_what_normalisation_leaves_can_be_moved_by_a_target(normalise):
    """Units: neither size nor mean of the stream at a position. Batch: nothing that is common to all samples."""
    net, (x, y) = network(**{**WAYS["variational"], "normalise": normalise}), tokens(64)
    a = net.learners[0].block(x).detach().requires_grad_()
    message, _ = net.learners[0].message(torch.eye(TOKENS))
    gradient = torch.autograd.grad(net.learners[0].local(a, y, message=message, wanted={}, mix=1.0).loss, a)[0]
    size = gradient.norm()
    stretch = (gradient * (a - a.mean(-1, keepdim=True))).sum(-1).abs().max() / size
    common = gradient.mean(0).abs().max() / size
    assert (stretch < 1e-4) == (normalise == "units")
    assert (common < 1e-6) == (normalise == "batch")


def test_the_gaussian_divergence_sends_the_stream_no_gradient_so_it_trains_nothing_but_the_twin():
    net, control = (network(**kind) for kind in ({**WAYS["evidence"], "objective": "variational"}, {"rule": "frozen"}))
    found = gradients(net, *tokens())
    assert all(g is None or not g.any() for own in found[:-1] for n, g in own.items() if n.startswith("block"))
    for each in (net, control):
        each.step(*tokens())
    for one, other in zip(net.learners, control.learners, strict=True):
        assert same(parameters(one.block), parameters(other.block))
