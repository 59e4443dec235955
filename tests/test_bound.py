"""The bound of method §1, by enumeration: networks so small that every latent configuration is summed. float64."""

import math

import pytest
import torch
import torch.nn.functional as F
from maths_helpers import configurations
from torch import Tensor

from blocklocal.block.objectives import OBJECTIVES, Terms, evidence
from blocklocal.block.targets import Classes
from blocklocal.families import family

BERNOULLI, CATEGORICAL = family("bernoulli"), family("categorical", size=3)
INPUTS, WIDTH, CLASSES = 3, 4, 3
every_seed = pytest.mark.parametrize("seed", range(5))


def draw(*shape, seed, size=1.0):
    return size * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Chain:
    """x → z1 → z2 → y with Bernoulli layers of 4 units and a softmax over 3 classes; every probability a sum."""

    def __init__(self, seed: int):
        self.first, self.second = draw(WIDTH, INPUTS, seed=seed), draw(WIDTH, WIDTH, seed=seed + 100, size=2)
        self.last, self.x = draw(CLASSES, WIDTH, seed=seed + 200, size=2), draw(INPUTS, seed=seed + 300)
        self.z = configurations(WIDTH)  # [16, 4]
        self.phi1 = self.first @ self.x
        self.log_z1 = log_density(self.z, self.phi1)  # log p(z1 | x), [16]
        self.log_z2_given_z1 = log_density(self.z, (self.z @ self.second.T - 1).unsqueeze(1))  # [16 z1, 16 z2]
        self.log_y_given_z2 = (self.z @ self.last.T).log_softmax(1)  # [16, C]

    def log_joint(self, y: int) -> Tensor:
        """log p(z1, z2, y | x), [16, 16]."""
        return self.log_z1.unsqueeze(1) + self.log_z2_given_z1 + self.log_y_given_z2[:, y]

    def log_cut(self, cut: int, y: int) -> Tensor:
        """log p(z_cut, y | x), [16]: the other layer summed out."""
        return self.log_joint(y).logsumexp(2 - cut)

    def log_target(self, y: int) -> Tensor:
        """log p(y | x)."""
        return self.log_joint(y).logsumexp((0, 1))


def log_density(z: Tensor, phi: Tensor) -> Tensor:
    """log p(z; φ) of independent Bernoulli units, by the family's density (Eq. 3)."""
    return (BERNOULLI.log_base(z) + z * phi - BERNOULLI.log_partition(phi)).sum(-1)


def free_energy(log_q: Tensor, log_joint: Tensor) -> Tensor:
    return (log_q.exp() * (log_q - log_joint)).sum()


def test_the_enumerated_chain_is_a_distribution():
    chain = Chain(0)
    total = sum(chain.log_target(y).exp() for y in range(CLASSES))
    assert float(total) == pytest.approx(1, abs=1e-12)
    for cut in (1, 2):
        torch.testing.assert_close(chain.log_cut(cut, 0).logsumexp(0), chain.log_target(0))


@every_seed
@pytest.mark.parametrize("cut", [1, 2])
def test_the_free_energy_of_one_cut_bounds_minus_log_p_for_any_q(seed, cut):
    chain = Chain(seed)
    for y in range(CLASSES):
        any_q = draw(16, seed=seed + y, size=3).log_softmax(0)
        independent_q = log_density(chain.z, draw(WIDTH, seed=seed + y + 50, size=2))
        for log_q in (any_q, independent_q):
            assert free_energy(log_q, chain.log_cut(cut, y)) > -chain.log_target(y)


@every_seed
@pytest.mark.parametrize("cut", [1, 2])
def test_the_bound_is_tight_at_the_true_posterior_and_only_there(seed, cut):
    chain = Chain(seed)
    for y in range(CLASSES):
        joint = chain.log_cut(cut, y)
        posterior = joint.log_softmax(0)
        torch.testing.assert_close(free_energy(posterior, joint), -chain.log_target(y))
        near = (posterior + draw(16, seed=seed, size=0.1)).log_softmax(0)
        gap = free_energy(near, joint) + chain.log_target(y)
        torch.testing.assert_close(gap, F.kl_div(posterior, near, log_target=True, reduction="sum"))
        assert gap > 1e-6


@every_seed
def test_the_library_divergence_less_the_expected_log_likelihood_is_the_enumerated_free_energy(seed):
    """The first term of the bound is Eq. 7's D_KL(ρ ‖ α); what is missing there is −E_ρ[log p(y | z)]."""
    chain = Chain(seed)
    b = draw(WIDTH, seed=seed + 400)
    log_rho = log_density(chain.z, chain.phi1 + b)
    for y in range(CLASSES):
        log_y_given_z1 = chain.log_cut(1, y) - chain.log_z1
        local = BERNOULLI.kl(chain.phi1 + b, chain.phi1).sum() - (log_rho.exp() * log_y_given_z1).sum()
        torch.testing.assert_close(local, free_energy(log_rho, chain.log_cut(1, y)))
        assert local > -chain.log_target(y)


@every_seed
def test_the_sum_over_two_cuts_bounds_too_but_loosely(seed):
    chain = Chain(seed)
    for y in range(CLASSES):
        cuts = [free_energy(chain.log_cut(c, y).log_softmax(0), chain.log_cut(c, y)) for c in (1, 2)]
        torch.testing.assert_close(sum(cuts), -2 * chain.log_target(y))  # at its best, with both posteriors true
        assert sum(cuts) > -chain.log_target(y)


# --- one layer, p(y, z | x) ∝ α(z) exp(T(z)·b_y): the evidence is the exact log marginal


def one_layer(seed):
    """(φ [2, U], b [C, U], log Σ_z α(z) exp(z·b_y) by enumeration [2, C])."""
    phi, b, z = draw(2, WIDTH, seed=seed), draw(CLASSES, WIDTH, seed=seed + 1), configurations(WIDTH)
    log_alpha = log_density(z, phi.unsqueeze(1))  # [2, 16]
    return phi, b, (log_alpha.unsqueeze(-1) + z @ b.T).logsumexp(1)


@every_seed
def test_the_evidence_of_one_layer_is_the_enumerated_log_marginal(seed):
    phi, b, marginal = one_layer(seed)
    torch.testing.assert_close(evidence(BERNOULLI, phi.unsqueeze(1), b.unsqueeze(1), "exact"), marginal)


@every_seed
def test_the_evidence_loss_of_one_layer_is_minus_log_p_of_the_target(seed):
    phi, b, marginal = one_layer(seed)
    log_p = marginal - marginal.logsumexp(1, keepdim=True)
    compute, targets = OBJECTIVES.get("evidence").compute, Classes(CLASSES)
    for y in range(CLASSES):
        wanted = torch.tensor([y, (y + 1) % CLASSES])
        loss = compute(BERNOULLI, phi.unsqueeze(1), b.unsqueeze(1), targets, wanted, Terms(order="exact")).loss
        torch.testing.assert_close(loss, -(log_p[0, wanted[0]] + log_p[1, wanted[1]]) / 2)


@every_seed
def test_the_evidence_is_the_bound_at_the_posterior_of_equation_9(seed):
    """ρ with γ = a + b is the true posterior of this model, so the free energy there is minus the evidence."""
    phi, b, marginal = one_layer(seed)
    z = configurations(WIDTH)
    for y in range(CLASSES):
        log_joint = log_density(z, phi[0]) + z @ b[y]
        torch.testing.assert_close(log_joint.log_softmax(0), log_density(z, phi[0] + b[y]))
        torch.testing.assert_close(free_energy(log_density(z, phi[0] + b[y]), log_joint), -marginal[0, y])
        assert free_energy(log_density(z, phi[0] + 0.5 * b[y]), log_joint) > -marginal[0, y]


def test_the_evidence_of_two_categorical_units_is_the_enumerated_log_marginal():
    phi, b = draw(1, 2, 3, seed=1), draw(CLASSES, 2, 3, seed=2)
    log_p = phi[0].log_softmax(-1)
    states = [(i, j) for i in range(3) for j in range(3)]
    for y in range(CLASSES):
        terms = [log_p[0, i] + log_p[1, j] + b[y, 0, i] + b[y, 1, j] for i, j in states]
        got = evidence(CATEGORICAL, phi.unsqueeze(1), b.unsqueeze(1), "exact")[0, y]
        torch.testing.assert_close(got, torch.stack(terms).logsumexp(0))


def test_the_evidence_of_positions_is_a_tempered_product_of_their_marginals():
    phi, b = draw(1, 3, WIDTH, seed=5), draw(CLASSES, 1, WIDTH, seed=6)
    z = configurations(WIDTH)
    marginals = [(log_density(z, phi[0, p]).unsqueeze(1) + z @ b[:, 0].T).logsumexp(0) for p in range(3)]
    product = math.prod(m.exp() for m in marginals) ** (1 / 3)
    torch.testing.assert_close(evidence(BERNOULLI, phi, b, "exact")[0], torch.as_tensor(product).log())
