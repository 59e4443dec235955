"""The evidence objective. Oracles: method §3 written out (gradients, free energy, orders) and plain loops."""

import math

import pytest
import torch
import torch.nn.functional as F
from family_oracles import every_family
from maths_helpers import CLOSE, SCALAR, backward_message, forward_message, gradients, inner, spread

from blocklocal._common.errors import InputError
from blocklocal.block.objectives import OBJECTIVES, ORDERS, Terms, evidence, scores
from blocklocal.block.targets import Classes
from blocklocal.families import family

BATCH, POSITIONS, UNITS, ROWS = 6, 3, 5, 4
Y = torch.tensor([0, 1, 2, 3, 1, 1])
every_order = pytest.mark.parametrize("order", ORDERS)
every_scalar = pytest.mark.parametrize("fam", SCALAR, ids=repr)


def loss_of(fam, phi, table, y, **terms):
    return OBJECTIVES.get("evidence").compute(fam, phi, table, Classes(len(table)), y, Terms(**terms))[:2]


def messages(fam, positions=1, table_positions=1, size=1.0):
    return (
        forward_message(fam, BATCH, positions, UNITS),
        backward_message(fam, ROWS, table_positions, UNITS, size),
    )


# --- values


@every_family
def test_exact_evidence_is_the_difference_of_log_partitions_summed_over_units(fam):
    phi, table = messages(fam)
    for sample in range(BATCH):
        for row in range(ROWS):
            expected = fam.log_partition(phi[sample, 0] + table[row, 0]) - fam.log_partition(phi[sample, 0])
            got = evidence(fam, phi, table, "exact")[sample, row]
            torch.testing.assert_close(got, expected.sum(), **CLOSE)


@every_family
def test_minus_evidence_is_divergence_less_expected_log_likelihood(fam):
    phi, table = messages(fam)
    b, rho = table[Y], phi + table[Y]
    free_energy = fam.kl(rho, phi) - inner(fam, fam.mean(rho), b)
    own = evidence(fam, phi, table, "exact").gather(1, Y.unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(-own, free_energy.sum((1, 2)), **CLOSE)


@every_family
@every_order
def test_every_order_is_its_moments_in_a_plain_loop(fam, order):
    phi, table = messages(fam, POSITIONS, POSITIONS, 0.3)
    got = evidence(fam, phi, table, order, per_position=True)
    assert got.shape == (BATCH, POSITIONS, ROWS)
    for p in range(POSITIONS):
        for row in range(ROWS):
            here, b = phi[:, p], table[row, p].expand_as(phi[:, p])
            if order == "exact":
                each = fam.log_partition(here + b) - fam.log_partition(here)
            else:
                each = inner(fam, fam.mean(here), b)
                each = each + (0.5 * inner(fam, spread(fam, here, b), b) if order == "second" else 0)
            torch.testing.assert_close(got[:, p, row], each.sum(-1), **CLOSE)


@every_scalar
@every_order
@pytest.mark.parametrize("table_positions", [1, POSITIONS])
def test_the_matrix_product_form_equals_the_broadcast_form(fam, order, table_positions):
    phi, table = messages(fam, POSITIONS, table_positions)
    each = {
        "exact": lambda: fam.evidence(phi.unsqueeze(1), table),
        "second": lambda: fam.evidence_second_order(phi.unsqueeze(1), table),
        "first": lambda: fam.mean(phi.unsqueeze(1)) * table,
    }[order]().sum(-1)  # [B, R, P]
    torch.testing.assert_close(evidence(fam, phi, table, order), each.mean(-1), **CLOSE)
    torch.testing.assert_close(evidence(fam, phi, table, order, per_position=True), each.transpose(1, 2), **CLOSE)


@every_family
@every_order
@pytest.mark.parametrize("per_position", [False, True])
def test_a_spatial_table_that_is_constant_equals_the_shared_one(fam, order, per_position):
    phi, shared = messages(fam, POSITIONS)
    every = shared.expand(ROWS, POSITIONS, *shared.shape[2:]).detach().requires_grad_()
    one = evidence(fam, phi, shared, order, per_position)
    other = evidence(fam, phi, every, order, per_position)
    torch.testing.assert_close(one, other)
    weight = torch.linspace(-1, 1, one.numel(), dtype=torch.float64).view_as(one)
    on_shared, on_every = gradients((weight * one).sum(), shared)[0], gradients((weight * other).sum(), every)[0]
    torch.testing.assert_close(on_shared, on_every.sum(1, keepdim=True))


@every_family
@every_order
def test_the_evidence_of_a_map_is_the_mean_over_its_positions(fam, order):
    phi, table = messages(fam, POSITIONS, POSITIONS)
    pooled, each = evidence(fam, phi, table, order), evidence(fam, phi, table, order, per_position=True)
    torch.testing.assert_close(pooled, each.mean(1))


# --- orders


@pytest.mark.parametrize(
    "fam",
    [family("bernoulli"), family("poisson"), family("rectified", temperature=0.5), family("categorical")],
    ids=repr,
)
@pytest.mark.parametrize(("order", "power"), [("first", 2), ("second", 3)])
def test_the_error_of_an_order_falls_with_the_next_power_of_b(fam, order, power):
    phi, table = messages(fam, size=1.0)

    def error(scale):
        b = scale * table
        return (evidence(fam, phi, b, "exact") - evidence(fam, phi, b, order)).norm().item()

    assert math.log2(error(0.02) / error(0.01)) == pytest.approx(power, abs=0.1)


@pytest.mark.parametrize(("order", "power"), [("first", 2), ("second", 3)])
@pytest.mark.parametrize("name", ["exponential", "gaussian-variance"])
def test_the_error_falls_with_the_next_power_of_b_on_half_lines_too(name, order, power):
    fam = family(name)
    phi, table = messages(fam)

    def error(scale):
        b = scale * table  # a part of a message stays inside the domain
        return (evidence(fam, phi, b, "exact") - evidence(fam, phi, b, order)).norm().item()

    assert math.log2(error(2e-3) / error(1e-3)) == pytest.approx(power, abs=0.2)


def test_second_order_is_exact_for_gaussian_units():
    phi, table = messages(family("gaussian"), POSITIONS)
    exact, second = (evidence(family("gaussian"), phi, 10 * table, order) for order in ("exact", "second"))
    torch.testing.assert_close(exact, second)


def test_second_order_is_exact_for_rectified_units_away_from_the_kink_and_not_across_it():
    fam = family("rectified")
    phi, table = messages(fam)
    away = torch.where(phi > 0, phi + 20, phi - 20)
    torch.testing.assert_close(evidence(fam, away, table, "exact"), evidence(fam, away, table, "second"))
    assert not torch.allclose(evidence(fam, phi, table, "exact"), evidence(fam, phi, table, "second"))


# --- gradients of the loss


@every_family
@pytest.mark.parametrize("positions", [1, POSITIONS])
def test_the_gradient_for_a_is_own_posterior_mean_less_the_marginal_mean(fam, positions):
    phi, table = messages(fam, positions)
    loss, logits = loss_of(fam, phi, table, Y, order="exact")
    (on_phi,) = gradients(loss, phi)
    p = logits.softmax(1)
    means = torch.stack([fam.mean(phi + table[row]) for row in range(ROWS)], 1)  # [B, R, P, U, …]
    marginal = torch.einsum("br,br...->b...", p, means)
    own = means[torch.arange(BATCH), Y]
    torch.testing.assert_close(-BATCH * positions * on_phi, own - marginal, **CLOSE)


@every_family
def test_the_gradient_for_b_is_the_class_error_times_the_posterior_mean(fam):
    phi, table = messages(fam)
    loss, logits = loss_of(fam, phi, table, Y, order="exact")
    (on_table,) = gradients(loss, table)
    error = F.one_hot(Y, ROWS) - logits.softmax(1)
    expected = torch.zeros_like(table)
    for sample in range(BATCH):
        for row in range(ROWS):
            expected[row] += error[sample, row] * fam.mean(phi[sample] + table[row]).detach() / BATCH
    torch.testing.assert_close(-on_table, expected, **CLOSE)


def test_the_gradient_for_a_is_equation_7s_weight_where_the_messages_are_consistent():
    """With Σ_y p(y|x) μ(ρ_y) = μ(α), which holds to first order in b, the evidence moves a by μ(ρ_y) − μ(α)."""
    fam = family("bernoulli")
    phi, table = messages(fam)
    table = 1e-3 * table
    p = evidence(fam, phi, table, "exact").softmax(1)
    table = table - (p.mean(0).view(-1, 1, 1) * table).sum(0, keepdim=True)  # p is nearly uniform: mean message 0
    (on_phi,) = gradients(loss_of(fam, phi, table, Y, order="exact")[0], phi)
    weight = fam.mean(phi + table[Y]) - fam.mean(phi)
    assert ((-BATCH * on_phi - weight).norm() / weight.norm()).item() < 2e-3


@every_scalar
def test_a_message_common_to_all_classes_that_adds_no_evidence_difference_leaves_the_prior(fam):
    phi = forward_message(fam, BATCH, 1, UNITS)
    table = backward_message(fam, 1, 1, UNITS).expand(ROWS, 1, UNITS)
    loss, logits = loss_of(fam, phi, table, Y, order="exact")
    assert loss.item() == pytest.approx(math.log(ROWS))
    torch.testing.assert_close(logits.softmax(1), torch.full((BATCH, ROWS), 1 / ROWS, dtype=torch.float64))


# --- settings


def test_temperature_divides_the_evidence():
    fam = family("bernoulli")
    phi, table = messages(fam)
    hot, plain = scores(fam, phi, table, Terms(order="exact", temperature=4.0)), evidence(fam, phi, table, "exact")
    torch.testing.assert_close(4 * hot, plain)
    loss, _ = loss_of(fam, phi, table, Y, order="exact", temperature=4.0)
    torch.testing.assert_close(loss, F.cross_entropy(plain / 4, Y))


def test_smoothing_is_that_of_the_cross_entropy():
    phi, table = messages(family("bernoulli"))
    loss, logits = loss_of(family("bernoulli"), phi, table, Y, smoothing=0.2)
    even = -logits.log_softmax(1).mean()
    torch.testing.assert_close(loss, 0.8 * F.cross_entropy(logits, Y) + 0.2 * even)


def test_the_mixing_weight_does_not_enter_the_evidence():
    phi, table = messages(family("bernoulli"))
    assert torch.equal(*(loss_of(family("bernoulli"), phi, table, Y, mix=m)[0] for m in (1.0, 0.1)))


def test_one_target_per_position_is_the_mean_of_the_positions_own_losses():
    fam = family("gaussian")
    phi, table = messages(fam, POSITIONS)
    y = torch.arange(BATCH * POSITIONS).view(BATCH, POSITIONS) % ROWS
    loss, logits = loss_of(fam, phi, table, y, per_position=True)
    assert logits.shape == (BATCH, POSITIONS, ROWS)
    each = [loss_of(fam, phi[:, [p]], table, y[:, p])[0] for p in range(POSITIONS)]
    torch.testing.assert_close(loss, torch.stack(each).mean())


def test_an_unknown_order_lists_the_known_ones():
    phi, table = messages(family("gaussian"))
    with pytest.raises(InputError, match=r"exact, second, first.*not 'third'"):
        evidence(family("gaussian"), phi, table, "third")
