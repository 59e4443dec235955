"""The Gaussian autoencoder and how it learns. Oracles: torch.distributions, the family, autograd, its own copy."""

import copy
from itertools import pairwise

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from blocklocal._common.errors import InputError
from blocklocal._common.seeds import generator, seeded
from blocklocal.block.optim import adam, sgd
from blocklocal.families import family
from experiments.autoencoder import Autoencoder, Sizes, certain, moments
from experiments.folded import EndToEnd, Folded, FoldedRecipe, Updater, build_reader, gaussian_kl

SMALL = Sizes(height=8, width=8, wide=3, hidden=10, bottleneck=4)
LEVELS = range(1, 4)


def autoencoder(sizes=SMALL, seed=0):
    with seeded("test autoencoder", seed):
        return Autoencoder(sizes)


def images(count=6, sizes=SMALL):
    return torch.rand(count, *sizes.latents[0], generator=generator("test images", count))


def recipe(**changes):
    return FoldedRecipe(**{"optimizer": adam(1e-2), "schedule": "constant", "steps": 50, **changes})


def folded(**options):
    return Folded(autoencoder(), recipe(), **options)


def weights(module):
    return {name: value.clone() for name, value in module.named_parameters()}


def changed(module, before):
    return {name for name, value in module.named_parameters() if not torch.equal(value, before[name])}


def messages(count=5):
    parts = torch.randn(4, count, 3, generator=generator("test messages"), dtype=torch.float64)
    return torch.cat((parts[0], parts[1]), 1), torch.cat((parts[2], parts[3]), 1)


# --- the divergence


def test_the_divergence_is_that_of_torch_distributions():
    data, prediction = messages()
    normals = [Normal(mean, (0.5 * log_variance).exp()) for mean, log_variance in map(moments, (data, prediction))]
    torch.testing.assert_close(gaussian_kl(data, prediction), kl_divergence(*normals).mean())


def test_the_divergence_is_that_of_the_family():
    fam, natural = family("gaussian-variance"), []
    for mean, log_variance in map(moments, messages()):
        natural.append(torch.stack((mean / log_variance.exp(), -0.5 / log_variance.exp()), -1))
    torch.testing.assert_close(gaussian_kl(*messages()), fam.kl(*natural).mean())


def test_the_divergence_is_smallest_where_the_variance_is_the_own_one_plus_the_squared_error():
    data, prediction = messages()
    (x, own), (mean, _) = moments(data), moments(prediction)
    best = (own.exp() + (x - mean).square()).log().requires_grad_()
    loss = gaussian_kl(data, torch.cat((mean, best), 1))
    assert torch.autograd.grad(loss, best)[0].abs().amax() < 1e-12
    for shift in (-0.1, 0.1):
        assert gaussian_kl(data, torch.cat((mean, best + shift), 1)) > loss


# --- the network


@pytest.mark.parametrize("sizes", [SMALL, Sizes(channels=3, height=12, width=8, wide=2, hidden=5, bottleneck=3)])
def test_every_message_has_the_shape_of_its_level_and_the_prediction_that_of_the_image(sizes):
    network, image = autoencoder(sizes), images(2, sizes)
    message, sent = network.message(image), []
    for pair in network.chain():
        sent.append(message)
        message = pair.encoder(message)
    for level, pair in reversed(list(enumerate(network.chain()))):
        message = pair.decoder(message)
        channels, *sides = sizes.latents[level]
        assert list(message.shape) == list(sent[level].shape) == [2, 2 * channels, *sides]
    assert network(image).shape == message.shape


def test_what_is_sent_down_has_one_constant_log_variance_per_kind():
    network, image = autoencoder(), images()
    message = network.message(image)
    for level in range(4):
        wanted = SMALL.image_deviation if level == 0 else SMALL.hidden_deviation
        log_variance = moments(message)[1]
        torch.testing.assert_close((0.5 * log_variance).exp(), torch.full_like(log_variance, wanted))
        message = network.chain()[level].encoder(message) if level < 3 else message


def test_the_standard_autoencoder_has_the_bottleneck_of_the_paper_trial():
    assert Sizes().latents == [(1, 28, 28), (12, 14, 14), (24, 7, 7), (32,)]


@pytest.mark.parametrize("level", LEVELS)
def test_a_reader_predicts_an_image_from_its_level(level):
    channels, *sides = SMALL.latents[level]
    message = certain(torch.randn(2, channels, *sides, generator=generator("test reader")), 0.0)
    assert build_reader(SMALL, level)(message).shape == images(2).shape


# --- no gradient across pairs


def gradients_of(training, index, monkeypatch):
    """Names of the parameters of all learners that get a gradient in a step in which number `index` alone goes back."""
    everything = {f"{k}.{name}": p for k, pair in enumerate(training.learners) for name, p in pair.named_parameters()}
    reached = set()

    def update(self, loss):
        if self is training.learners[index].updater:
            found = torch.autograd.grad(loss, list(everything.values()), allow_unused=True)
            reached.update(name for name, grad in zip(everything, found, strict=True) if grad is not None)

    monkeypatch.setattr(Updater, "update", update)
    training.step(images())
    return reached, everything


@pytest.mark.parametrize("index", range(3))
def test_a_pairs_loss_reaches_all_of_its_own_parameters_and_no_others(index, monkeypatch):
    reached, everything = gradients_of(folded(), index, monkeypatch)
    assert reached == {name for name in everything if name.startswith(f"{index}.")}


@pytest.mark.parametrize("index", range(3))
def test_what_a_pair_hands_on_carries_no_graph(index):
    training, handed = folded(), []
    pair = training.learners[index]
    learn = pair.learn

    def recorded(given, sent, arriving, image):
        loss, outgoing = learn(given, sent, arriving, image)
        handed.extend([given, loss, outgoing, *([] if arriving is None else [arriving])])
        return loss, outgoing

    pair.learn = recorded
    training.step(images())
    assert len(handed) == (3 if index == 2 else 4)
    assert not any(tensor.requires_grad for tensor in handed)


def test_a_pair_cuts_the_graph_of_what_it_is_given():
    learner, sizes = folded().learners[1], SMALL
    given = certain(torch.randn(4, *sizes.latents[1]), 0.0).requires_grad_()
    arriving = certain(torch.randn(4, *sizes.latents[2]), 0.0).requires_grad_()
    learner.learn(given, learner.send(given), arriving, images(4))
    assert given.grad is None
    assert arriving.grad is None


def test_end_to_end_the_gradient_does_reach_every_pair():
    network = autoencoder()
    gaussian_kl(network.message(images()), network(images())).backward()
    assert all(p.grad is not None for p in network.parameters())


def test_one_step_of_a_pair_is_a_gradient_step_of_a_copy_that_stands_alone():
    rate, image = 0.1, images()
    training = Folded(autoencoder(), recipe(optimizer=sgd(rate, momentum=0.0)))
    alone, arrived, learn = copy.deepcopy(training.learners[0]), [], training.learners[0].learn

    def recorded(given, sent, arriving, picture):
        arrived.append(arriving)
        return learn(given, sent, arriving, picture)

    training.learners[0].learn = recorded
    training.step(image)
    given = training.network.message(image)
    sent = alone.pair.encoder(given)
    loss = gaussian_kl(given, alone.pair.decoder(arrived[0])) + (alone.reader(sent) - image).square().mean() / 0.02
    loss.backward()
    for mine, theirs in zip(training.learners[0].parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs - rate * theirs.grad)


# --- what learns


def test_a_step_changes_every_parameter_of_every_pair():
    training = folded()
    for learner in training.learners:
        before = weights(learner)
        training.step(images())
        assert changed(learner, before) == set(before)


def test_in_the_frozen_control_the_outermost_pair_alone_changes():
    training = folded(frozen=True)
    before = [weights(learner) for learner in training.learners]
    for _ in range(3):
        training.step(images())
    assert changed(training.learners[0], before[0]) == set(before[0])
    for learner, old in zip(training.learners[1:], before[1:], strict=True):
        assert changed(learner, old) == set()


def test_the_statistics_of_frozen_pairs_follow_the_data():
    training = folded(frozen=True)
    before = {name: value.clone() for name, value in training.learners[1].pair.named_buffers() if "mean" in name}
    training.step(images())
    after = dict(training.learners[1].pair.named_buffers())
    assert before
    assert all(not torch.equal(after[name], value) for name, value in before.items())


def test_without_reconstruction_the_outer_encoder_block_has_nothing_to_learn_from(monkeypatch):
    training = Folded(autoencoder(), recipe(reconstruction=0.0))
    reached, _ = gradients_of(training, 0, monkeypatch)
    assert reached == {f"0.pair.{name}" for name, _ in training.learners[0].pair.decoder.named_parameters("decoder")}


def losses_of(training, steps=40):
    image = images(16)
    return [torch.stack(training.step(image)).tolist() for _ in range(steps)]


@pytest.mark.parametrize("build", [lambda: EndToEnd(autoencoder(), recipe()), folded], ids=["end to end", "folded"])
def test_every_loss_falls(build):
    first, *_, last = losses_of(build())
    assert all(after < before for before, after in zip(first, last, strict=True))


def test_squared_error_teaches_the_means_and_leaves_the_log_variances_alone():
    training = EndToEnd(autoencoder(), recipe(), squared_error=True)
    bias = training.network.chain()[0].decoder[-1].bias
    before = bias.detach().clone()
    losses = [loss for (loss,) in losses_of(training)]
    assert losses[-1] < 0.5 * losses[0]
    assert bias[0] != before[0]
    assert bias[1] == before[1]


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    runs = [Folded(autoencoder(), recipe(), seed=seed) for seed in (0, 0, 1)]
    for training in runs:
        losses_of(training, 3)
    states = [torch.cat([p.flatten() for p in training.learners[2].parameters()]) for training in runs]
    assert [torch.equal(a, b) for a, b in pairwise(states)] == [True, False]


def test_training_may_go_on_after_the_last_step_of_the_schedule():
    training = EndToEnd(autoencoder(), recipe(schedule="one-cycle", steps=3))
    assert len(losses_of(training, 5)) == 5


# --- bad input


def test_sides_that_4_does_not_divide_are_refused():
    with pytest.raises(InputError, match=r"4 must divide both sides, not 28x30"):
        Sizes(width=30)


@pytest.mark.parametrize("name", ["wide", "bottleneck", "image_deviation", "hidden_deviation"])
def test_sizes_of_zero_are_refused(name):
    with pytest.raises(InputError, match=f"{name} must be"):
        Sizes(**{name: 0})


@pytest.mark.parametrize(
    "image", [torch.rand(2, 1, 8, 12), torch.rand(1, 8, 8), torch.zeros(2, 1, 8, 8, dtype=torch.uint8)]
)
def test_images_that_do_not_fit_are_refused(image):
    with pytest.raises(InputError, match=r"images \[B, 1, 8, 8\] in \[0, 1\]"):
        autoencoder()(image)


def test_a_negative_reconstruction_weight_is_refused():
    with pytest.raises(InputError, match="weight of 0 or more, not -1"):
        recipe(reconstruction=-1)
