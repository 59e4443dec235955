"""The paper's local losses. Oracles: Eq. 7 and Eq. 8 written out, and what method §2 says of their behaviour."""

from itertools import pairwise

import pytest
import torch
from family_oracles import every_family
from maths_helpers import CLOSE, backward_message, forward_message, gradients, spread

from blocklocal._common.errors import InputError
from blocklocal.block.objectives import OBJECTIVES, Terms, mixing
from blocklocal.block.targets import MISSING, Classes
from blocklocal.families import family

BERNOULLI = family("bernoulli")
every_mix = pytest.mark.parametrize("m", [1.0, 0.5, 0.1])


def loss_of(name, fam, phi, table, y, **terms):
    return OBJECTIVES.get(name).compute(fam, phi, table, Classes(len(table)), y, Terms(**terms))[0]


def own_messages(fam, units=5, positions=3, batch=4):
    """φ and a table with one row per sample, so that the gradient for every b is seen by itself."""
    phi = forward_message(fam, batch, positions, units)
    return phi, backward_message(fam, batch, positions, units), torch.arange(batch), batch * positions * units


@every_family
@every_mix
def test_the_variational_gradient_is_equation_7(fam, m):
    phi, b, y, count = own_messages(fam)
    on_phi, on_b = gradients(loss_of("variational", fam, phi, b, y, mix=m), phi, b)
    gamma = (phi + m * b).detach()
    forward_weight = fam.mean(gamma) - fam.mean(phi)
    posterior_weight = spread(fam, gamma, phi - gamma)
    torch.testing.assert_close(-count * on_phi, forward_weight + posterior_weight, **CLOSE)
    torch.testing.assert_close(-count * on_b, m * posterior_weight, **CLOSE)


@every_family
@every_mix
def test_the_variational_loss_is_the_mean_divergence_of_posterior_and_forward_message(fam, m):
    phi, b, y, _ = own_messages(fam)
    gamma = (phi + m * b).detach()
    distance = (gamma - phi) * fam.mean(gamma)
    distance = distance.sum(-1) if fam.event_dims else distance
    bregman = distance - fam.log_partition(gamma) + fam.log_partition(phi)
    torch.testing.assert_close(loss_of("variational", fam, phi, b, y, mix=m), bregman.mean(), **CLOSE)


@every_mix
def test_equation_7_for_bernoulli_units(m):
    phi, b, y, count = own_messages(BERNOULLI)
    on_phi, on_b = gradients(loss_of("variational", BERNOULLI, phi, b, y, mix=m), phi, b)
    alpha, rho = 1 / (1 + torch.exp(-phi)), 1 / (1 + torch.exp(-phi - m * b))
    torch.testing.assert_close(-count * on_phi, (rho - alpha) - rho * (1 - rho) * m * b)
    torch.testing.assert_close(-count * on_b, -rho * (1 - rho) * m**2 * b)


@every_mix
def test_printed_eq8_is_the_printed_formula_without_m_in_its_second_term(m):
    phi, b, y, count = own_messages(BERNOULLI)
    on_phi, on_b = gradients(loss_of("printed-eq8", BERNOULLI, phi, b, y, mix=m), phi, b)
    alpha, rho = 1 / (1 + torch.exp(-phi)), 1 / (1 + torch.exp(-phi - m * b))
    torch.testing.assert_close(-count * on_phi, (rho - alpha) - rho * (1 - rho) * b)
    torch.testing.assert_close(-count * on_b, -rho * (1 - rho) * b)


@pytest.mark.parametrize(("m", "same"), [(1.0, True), (0.5, False), (0.1, False)])
def test_the_two_rules_of_the_paper_agree_at_m_1_alone(m, same):
    phi, b, y, _ = own_messages(BERNOULLI)
    printed = gradients(loss_of("printed-eq8", BERNOULLI, phi, b, y, mix=m), phi, b)
    exact = gradients(loss_of("variational", BERNOULLI, phi, b, y, mix=m), phi, b)
    for mine, theirs in zip(printed, exact, strict=True):
        assert torch.allclose(mine, theirs) is same


@every_mix
def test_printed_eq8_reports_the_divergence_as_its_value(m):
    phi, b, y, _ = own_messages(BERNOULLI)
    printed, exact = (loss_of(name, BERNOULLI, phi, b, y, mix=m) for name in ("printed-eq8", "variational"))
    torch.testing.assert_close(printed, exact)


@pytest.mark.parametrize("name", ["variational", "printed-eq8"])
def test_a_message_shared_by_all_positions_equals_the_same_message_at_every_position(name):
    phi, shared = forward_message(BERNOULLI, 4, 3, 5), backward_message(BERNOULLI, 2, 1, 5)
    y = torch.tensor([0, 1, 1, 0])
    every = shared.expand(2, 3, 5).detach().requires_grad_()
    one, other = loss_of(name, BERNOULLI, phi, shared, y, mix=0.5), loss_of(name, BERNOULLI, phi, every, y, mix=0.5)
    torch.testing.assert_close(one, other)
    torch.testing.assert_close(gradients(one, phi), gradients(other, phi))
    torch.testing.assert_close(gradients(one, shared)[0], gradients(other, every)[0].sum(1, keepdim=True))


@every_family
def test_a_missing_target_gives_no_divergence_and_no_gradient(fam):
    phi, b, _, _ = own_messages(fam)
    y = torch.tensor([0, MISSING, 2, MISSING])
    on_phi, on_b = gradients(loss_of("variational", fam, phi, b, y, mix=0.5), phi, b)
    assert torch.equal(on_phi[y == MISSING], torch.zeros_like(on_phi[y == MISSING]))
    assert on_b[y != MISSING].abs().amax() > 0
    assert torch.equal(on_b[[1, 3]], torch.zeros_like(on_b[[1, 3]]))
    assert loss_of("variational", fam, phi, b, torch.full((4,), MISSING)) == 0


# --- the pitfall of method §2, and the way out


def class_features(units=12, each=20):
    """Bernoulli parameters that tell two classes apart, and a small message that points nowhere in particular."""
    generator = torch.Generator().manual_seed(4)
    centres = torch.randn(2, 1, units, generator=generator)
    y = torch.arange(2 * each) % 2
    phi = centres[y] + 0.5 * torch.randn(2 * each, 1, units, generator=generator)
    return phi, 0.3 * torch.randn(2, 1, units, generator=generator), y


def sizes_of_b(name, steps=40):
    phi, b, y = class_features()
    sizes = [b.abs().mean().item()]
    for _ in range(steps):
        b.requires_grad_()
        (gradient,) = gradients(loss_of(name, BERNOULLI, phi, b, y, order="exact"), b)
        b = b.detach() - (50.0 if name == "variational" else 0.5) * gradient  # a mean over 12 units takes more
        sizes.append(b.abs().mean().item())
    return sizes


def test_descending_the_variational_loss_alone_shrinks_the_message_at_every_step():
    sizes = sizes_of_b("variational")
    assert all(later < earlier for earlier, later in pairwise(sizes))
    assert sizes[-1] < 0.01 * sizes[0]


@every_family
def test_the_variational_gradient_of_the_message_never_points_away_from_zero(fam):
    phi, b, y, _ = own_messages(fam)
    (on_b,) = gradients(loss_of("variational", fam, phi, b, y), b)
    assert (on_b * b).sum() > 0


def test_descending_the_evidence_loss_grows_a_message_that_tells_the_classes_apart():
    sizes = sizes_of_b("evidence")
    assert sizes[-1] > 1.5 * sizes[0]


def test_the_two_variational_terms_on_a_cancel_to_first_order_in_b():
    phi, b, y, _ = own_messages(BERNOULLI)

    def size(scale):
        small = (scale * b).detach().requires_grad_()
        return gradients(loss_of("variational", BERNOULLI, phi, small, y), phi)[0].norm()

    assert size(1e-2) / size(5e-3) == pytest.approx(4, rel=0.02)


def test_the_variational_loss_of_gaussian_units_never_moves_a():
    gaussian = family("gaussian")
    phi, b, y, _ = own_messages(gaussian)
    (on_phi,) = gradients(loss_of("variational", gaussian, phi, b, y, mix=0.5), phi)
    assert on_phi.abs().amax() < 1e-15


# --- target projection


def test_the_projection_gradient_on_the_activation_is_the_projected_target():
    gaussian = family("gaussian")  # its mean is the activation itself
    phi, b = forward_message(gaussian, 4, 3, 5), backward_message(gaussian, 2, 1, 5)
    y = torch.tensor([0, 1, 1, 0])
    (on_phi,) = gradients(loss_of("projection", gaussian, phi, b, y, mix=0.5), phi)
    torch.testing.assert_close(-on_phi * 4 * 3, 0.5 * b[y].expand(4, 3, 5))


# --- settings and bad input


@pytest.mark.parametrize("name", ["variational", "printed-eq8", "projection"])
@pytest.mark.parametrize("shape", [(1,), (3,), (4, 2)], ids=str)
def test_targets_that_do_not_fit_the_samples_are_refused(name, shape):
    phi, b, _, _ = own_messages(BERNOULLI)  # 4 samples of 3 positions
    with pytest.raises(InputError, match="do not fit 4 samples with 3 positions"):
        loss_of(name, BERNOULLI, phi, b[:, :2], torch.zeros(shape, dtype=torch.int64))


@pytest.mark.parametrize(("tau", "epoch", "m"), [(0.0, 7, 1.0), (0.5, 0, 1.0), (0.5, 2, 0.5), (1.0, 9, 0.1)])
def test_the_mixing_schedule_is_1_over_1_plus_tau_times_epoch(tau, epoch, m):
    assert mixing(tau, epoch) == pytest.approx(m, rel=1e-12)


def test_a_negative_tau_is_refused():
    with pytest.raises(InputError, match=r"tau must be 0 or more, not -0\.5"):
        mixing(-0.5, 1)


def test_an_unknown_objective_names_the_nearest():
    with pytest.raises(InputError, match="Did you mean 'variational'"):
        OBJECTIVES.get("variatonal")
