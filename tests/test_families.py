"""One battery over every registered family. Oracles: autograd of A, Bregman form, 60 digits, quadrature, sampling."""

import math

import mpmath
import pytest
import torch
from family_oracles import (
    ORACLES,
    RELATIVE,
    SUPPORTS,
    every_density,
    every_family,
    evidence_scale,
    exact,
    grid,
    inner,
    points,
    worst_error,
)

from blocklocal.families import FAMILIES, family

torch.set_num_threads(1)


def test_every_registered_family_has_an_oracle_and_a_support():
    assert sorted(ORACLES) == sorted(SUPPORTS) == FAMILIES.names()


@every_family
def test_mean_is_the_gradient_of_the_log_partition_and_variance_its_hessian(fam):
    phi, _, _ = points(fam)
    torch.testing.assert_close(fam.mean(phi), torch.func.grad(lambda x: fam.log_partition(x).sum())(phi))
    one_unit = torch.func.jacrev(fam.mean)
    torch.testing.assert_close(fam.variance(phi), torch.stack([one_unit(x) for x in phi]), rtol=1e-6, atol=1e-9)


@every_family
def test_log_partition_and_mean_agree_with_60_digits(fam):
    phi, _, _ = points(fam, spread=5)
    log_partition, mean = ORACLES[fam.name](fam)
    expected = torch.tensor([float(log_partition(f)) for f in exact(phi)], dtype=torch.float64)
    torch.testing.assert_close(fam.log_partition(phi), expected, rtol=1e-7, atol=1e-9)
    expected = torch.tensor([[float(m) for m in mean(f)] for f in exact(phi)], dtype=torch.float64)
    torch.testing.assert_close(fam.mean(phi).reshape(expected.shape), expected, rtol=1e-7, atol=0)


@every_family
def test_kl_is_the_bregman_divergence_of_the_log_partition(fam):
    phi, gamma, _ = points(fam)
    bregman = inner(fam, gamma - phi, fam.mean(gamma)) - fam.log_partition(gamma) + fam.log_partition(phi)
    torch.testing.assert_close(fam.kl(gamma, phi), bregman, rtol=1e-5, atol=1e-8)


@every_family
def test_kl_is_zero_for_equal_parameters_and_positive_otherwise(fam):
    phi, gamma, _ = points(fam)
    assert (fam.kl(phi, phi) == 0).all()
    one_density = (gamma <= 0) & (phi <= 0) if fam == family("rectified") else False  # both off at temperature 0
    assert ((fam.kl(gamma, phi) > 0) ^ one_density).all()


@every_family
def test_evidence_is_the_step_of_the_log_partition(fam):
    phi, _, b = points(fam)
    expected = fam.log_partition(fam.product(phi, b)) - fam.log_partition(phi)
    torch.testing.assert_close(fam.evidence(phi, b), expected, rtol=1e-5, atol=1e-8)


@every_family
def test_minus_the_evidence_is_the_free_energy_of_the_posterior(fam):
    phi, _, b = points(fam)
    posterior = fam.product(phi, b)
    free_energy = fam.kl(posterior, phi) - inner(fam, fam.mean(posterior), b)
    torch.testing.assert_close(-fam.evidence(phi, b), free_energy, rtol=1e-5, atol=1e-8)


@every_family
def test_second_order_evidence_has_an_error_of_third_order(fam):
    phi, _, b = points(fam)
    far = phi.abs() > 0.5 if fam.event_dims == 0 else torch.ones(len(phi), dtype=torch.bool)  # from the kink at 0
    phi, b = phi[far], torch.tanh(b[far])
    scale = 0.05 * min(1.0, getattr(fam, "temperature", 1.0) or 1.0)
    if fam.name == "gaussian-variance":
        b, scale = b * phi[:, 1:].abs(), 0.02
    error = [(fam.evidence(phi, s * b) - fam.evidence_second_order(phi, s * b)).abs().sum() for s in (scale, scale / 4)]
    assert error[1] < error[0] / 45 + 1e-12
    assert error[0] < 0.05 * fam.evidence(phi, scale * b).abs().sum()


@every_family
def test_gradients_of_kl_and_evidence_are_those_of_equation_7_and_of_the_posterior(fam):
    phi, gamma, b = (x.requires_grad_() for x in points(fam))
    by_gamma, by_phi = torch.autograd.grad(fam.kl(gamma, phi).sum(), (gamma, phi))
    spread = fam.variance(gamma)
    expected = (spread @ (gamma - phi)[..., None])[..., 0] if fam.event_dims else spread * (gamma - phi)
    torch.testing.assert_close(by_gamma, expected, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(by_phi, fam.mean(phi) - fam.mean(gamma), rtol=1e-4, atol=1e-7)
    by_phi, by_b = torch.autograd.grad(fam.evidence(phi, b).sum(), (phi, b))
    torch.testing.assert_close(by_b, fam.mean(phi + b), rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(by_phi, fam.mean(phi + b) - fam.mean(phi), rtol=1e-4, atol=1e-7)


@every_family
def test_autograd_passes_gradcheck(fam):
    phi, gamma, b = (x.requires_grad_() for x in points(fam, count=6, seed=1))
    for function, inputs in ((fam.kl, (gamma, phi)), (fam.evidence, (phi, b)), (fam.log_partition, (phi,))):
        assert torch.autograd.gradcheck(function, inputs, atol=1e-5)
    assert torch.autograd.gradcheck(fam.mean, (phi,), atol=1e-5)
    assert torch.autograd.gradcheck(fam.evidence_second_order, (phi, b), atol=1e-4)


@every_family
def test_float32_evidence_is_accurate_and_has_finite_gradients_up_to_1e4(fam):
    phi, b = grid(fam)
    log_partition, _ = ORACLES[fam.name](fam)
    got = fam.evidence(phi.requires_grad_(), b.requires_grad_())
    assert all(g.isfinite().all() for g in torch.autograd.grad(got.sum(), (phi, b)))
    pairs = list(zip(exact(phi), exact(b), strict=True))
    expected = [log_partition([x + y for x, y in zip(f, m, strict=True)]) - log_partition(f) for f, m in pairs]
    scale = [evidence_scale(fam, f, m, e) for (f, m), e in zip(pairs, expected, strict=True)]
    assert worst_error(got, expected, scale) < RELATIVE


@every_family
def test_float32_kl_is_accurate_and_has_finite_gradients_up_to_1e4(fam):
    phi, b = grid(fam)
    gamma = (phi + b).requires_grad_()
    log_partition, mean = ORACLES[fam.name](fam)
    got = fam.kl(gamma, phi.requires_grad_())
    expected = []
    for g, f in zip(exact(gamma), exact(phi), strict=True):
        slope = sum(m * (x - y) for m, x, y in zip(mean(g), g, f, strict=True))
        expected.append(slope - log_partition(g) + log_partition(f))
    fits = torch.tensor([e < 3e38 for e in expected])  # a Poisson divergence can leave the float range
    assert all(g.isfinite().all() for g in torch.autograd.grad(got[fits].sum(), (gamma, phi)))
    assert worst_error(got, expected, expected) < RELATIVE


@every_family
def test_float32_mean_and_variance_are_accurate_up_to_1e4(fam):
    phi = grid(fam)[0].unique(dim=0)
    if fam == family("rectified"):
        phi = phi[phi != 0]  # the kink, where A'' does not exist
    _, mean = ORACLES[fam.name](fam)
    expected = [[float(m) for m in mean(f)] for f in exact(phi)]
    torch.testing.assert_close(
        fam.mean(phi).double().reshape(len(phi), -1), torch.tensor(expected).double(), rtol=RELATIVE, atol=1e-37
    )
    if fam.event_dims == 0:
        slopes = [float(mpmath.diff(lambda x: mean([x])[0], f[0])) for f in exact(phi)]
        torch.testing.assert_close(fam.variance(phi).double(), torch.tensor(slopes).double(), rtol=RELATIVE, atol=1e-37)


@every_density
def test_the_density_integrates_to_one(fam):
    z, weight = SUPPORTS[fam.name]
    phi, _, _ = points(fam, count=8, spread=1.0)
    if fam.name == "exponential":
        phi = phi - 0.1
    if fam.name == "gaussian-variance":
        phi = phi - torch.tensor([0.0, 0.05])
    tau = getattr(fam, "temperature", 1.0)
    for unit in phi:
        log_density = fam.log_base(z) + (inner(fam, unit, fam.statistics(z)) - fam.log_partition(unit)) / tau
        assert float(log_density.exp().sum() * weight) == pytest.approx(1, abs=1e-4)


@every_density
def test_samples_have_the_stated_mean_and_evidence(fam):
    tau, count = getattr(fam, "temperature", 1.0), 40_000
    phi, _, b = points(fam, count=4, seed=2, spread=0.7)
    generator = torch.Generator().manual_seed(0)
    t = fam.statistics(fam.sample(phi.expand(count, *phi.shape), generator))
    standard_error = t.std(0) / math.sqrt(count)
    assert ((t.mean(0) - fam.mean(phi)).abs() <= 5 * standard_error + 1e-9).all()
    b = 0.3 * math.sqrt(tau) * b
    weight = torch.exp(inner(fam, t, b) / tau)
    tolerance = 5 * tau * weight.std(0) / weight.mean(0) / math.sqrt(count)
    assert ((tau * weight.mean(0).log() - fam.evidence(phi, b)).abs() <= tolerance).all()
