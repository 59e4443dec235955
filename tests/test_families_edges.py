"""Where families end: domains, messages that stay inside, shapes, half precision, the limit of relu units, names."""

import dataclasses
import math

import pytest
import torch
from family_oracles import every_family, points
from hypothesis import given, settings
from hypothesis import strategies as st

from blocklocal._common.errors import InputError
from blocklocal.families import family
from blocklocal.families.numerics import CHUNK

torch.set_num_threads(1)


@every_family
@settings(deadline=None, max_examples=60)
@given(raw=st.lists(st.floats(-1e4, 1e4, width=32), min_size=12, max_size=12))
def test_natural_and_message_keep_sums_in_the_domain(fam, raw):
    raw = torch.tensor(raw).reshape(2, *((2, 3) if fam.name == "categorical" else (3, 2)))
    if fam.name == "poisson":
        raw = raw.clamp(max=43)  # a documented bound: no message can keep every sum below the overflow
    phi, b = fam.natural(raw[0]), fam.message(raw[1])
    fam.check(phi)
    fam.check(fam.product(phi, b))
    assert fam.evidence(phi, b).isfinite().all()


@every_family
def test_check_refuses_what_is_not_finite_or_not_floating(fam):
    phi, _, _ = points(fam)
    fam.check(phi)
    fam.check(phi[:0])
    for bad in (math.nan, math.inf):
        broken = phi.clone()
        broken.view(-1)[3] = bad
        with pytest.raises(InputError, match=f"forward message of {fam.name}.*1 of {phi.numel()} values.*What helps"):
            fam.check(broken, "forward message")
    with pytest.raises(InputError, match="floating point"):
        fam.check(phi.long())


@pytest.mark.parametrize(
    ("name", "inside", "outside"),
    [("exponential", [-1e-6], [0.0]), ("poisson", [87.9], [88.0]), ("gaussian-variance", [5.0, -1e-6], [5.0, 0.0])],
)
def test_check_names_the_domain_and_the_worst_value(name, inside, outside):
    family(name).check(torch.tensor(inside))
    with pytest.raises(InputError, match=rf"{name} units must be in .*largest value is {outside[-1]:g}"):
        family(name).check(torch.tensor(outside))


def test_check_refuses_a_parameter_without_its_event_dimension():
    with pytest.raises(InputError, match=r"shape \[..., 2\], not \[3\]: use group"):
        family("gaussian-variance").check(torch.zeros(3))


def test_group_puts_neighbouring_features_into_one_unit_and_refuses_a_rest():
    a = torch.arange(12.0).reshape(2, 6)
    assert family("bernoulli").group(a) is a
    assert family("gaussian-variance").group(a).shape == (2, 3, 2)
    assert family("categorical", size=3).group(a)[1, 1].tolist() == [9, 10, 11]
    with pytest.raises(InputError, match="6 features is not a multiple"):
        family("categorical", size=4).group(a)


@every_family
def test_evidence_broadcasts_samples_against_classes(fam):
    phi, _, b = points(fam, count=12)
    phi, b = phi.unflatten(0, (3, 1, 4)), b[:8].unflatten(0, (2, 4))
    assert fam.evidence(phi, b).shape == fam.evidence_second_order(phi, b).shape == (3, 2, 4)
    torch.testing.assert_close(fam.evidence(phi, b)[2, 1], fam.evidence(phi[2, 0], b[1]))


@every_family
def test_bfloat16_is_the_rounded_float64_result(fam):
    phi, gamma, b = points(fam, dtype=torch.bfloat16)
    for function, x, y in ((fam.kl, gamma, phi), (fam.evidence, phi, b)):
        got, expected = function(x, y), function(x.double(), y.double())
        assert got.dtype == torch.bfloat16
        torch.testing.assert_close(got.double(), expected, rtol=0.1, atol=0.1)


def test_rectified_units_approach_relu_units_as_the_temperature_falls():
    phi, gamma, b = points(family("rectified"))
    cold, limit = family("rectified", temperature=1e-6), family("rectified")
    torch.testing.assert_close(cold.mean(phi), limit.mean(phi), rtol=0, atol=1e-3)
    torch.testing.assert_close(cold.evidence(phi, b), limit.evidence(phi, b), rtol=0, atol=1e-4)
    torch.testing.assert_close(cold.kl(gamma, phi), limit.kl(gamma, phi), rtol=0, atol=1e-2)


def test_relu_units_have_the_gradients_of_relu_on_the_kink():
    phi, b = torch.tensor([0.0, 2.0, 0.0], requires_grad=True), torch.tensor([3.0, -2.0, -1.0], requires_grad=True)
    by_phi, by_b = torch.autograd.grad(family("rectified").evidence(phi, b).sum(), (phi, b))
    assert by_phi.tolist() == [3.0, -2.0, 0.0]
    assert by_b.tolist() == [3.0, 0.0, 0.0]
    assert torch.autograd.grad(family("rectified").kl(b, phi).sum(), phi)[0].tolist() == [-3.0, 2.0, 0.0]


def test_relu_units_at_temperature_zero_have_no_density():
    with pytest.raises(InputError, match="no density"):
        family("rectified").sample(torch.ones(2), torch.Generator())
    with pytest.raises(InputError, match="no density"):
        family("rectified").log_base(torch.ones(2))


def test_family_finds_by_name_and_returns_instances_as_they_are():
    ready = family("rectified", temperature=0.5)
    assert family(ready) is ready
    assert ready.temperature == 0.5
    with pytest.raises(dataclasses.FrozenInstanceError):
        ready.temperature = 1.0


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("gausian", {}, "unknown family 'gausian'. Did you mean 'gaussian'"),
        ("rectified", {"temprature": 1}, "Did you mean 'temperature'"),
        ("rectified", {"temperature": -1}, "temperature must be a number of at least 0, not -1"),
        ("categorical", {"size": 1}, "whole number from 2, not 1"),
        ("gaussian", {"variance": 2}, "'gaussian' has no parameters, but 'variance' was given"),
        (family("gaussian"), {"size": 2}, "beside a ready family"),
    ],
)
def test_family_refuses_unknown_names_and_bad_parameters(name, parameters, message):
    with pytest.raises(InputError, match=message):
        family(name, **parameters)


def test_the_bernoulli_divergence_of_a_large_map_is_that_of_its_pieces():
    count = 2 * CHUNK + 7
    draw = torch.Generator().manual_seed(0)
    gamma, phi = (torch.randn(count, generator=draw, requires_grad=True) for _ in range(2))
    bernoulli = family("bernoulli")
    whole = bernoulli.kl(gamma, phi)
    whole.sum().backward()
    for start in (0, CHUNK, 2 * CHUNK):
        piece = slice(start, start + CHUNK)
        own = [t.detach()[piece].requires_grad_() for t in (gamma, phi)]
        bernoulli.kl(*own).sum().backward()
        assert torch.equal(bernoulli.kl(*own), whole[piece])
        for tensor, large in zip(own, (gamma, phi), strict=True):
            torch.testing.assert_close(tensor.grad, large.grad[piece], rtol=1e-6, atol=0)
