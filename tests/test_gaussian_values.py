"""Values with a variance. Oracles: torch's GaussianNLLLoss and Normal, and sums by hand."""

import math

import pytest
import torch

import blocklocal as bl
from blocklocal._common.errors import InputError
from blocklocal.block.gaussian_values import GaussianValues, z_score
from blocklocal.block.target import Target
from blocklocal.block.targets import combined
from blocklocal.block.values import ROWS, centres
from blocklocal.network.prediction import Temperatures
from blocklocal.training.evaluation import evaluate
from blocklocal.uncertainty.measures import mismatch

X = torch.randn(64, 5, generator=torch.Generator().manual_seed(0))
Y = torch.stack([1000 + 50 * X[:, 0], X[:, 1] * X[:, 2]], 1)
KIND = GaussianValues.of(Y)


def network(kind: GaussianValues = KIND, **settings) -> bl.BlockLocal:
    torch.manual_seed(0)
    model = bl.build_model("mlp", classes=kind.outputs, input_shape=(5,), width=16)
    return bl.BlockLocal(bl.split(model, 3), values=kind, **settings)


def normal(said: bl.Prediction) -> torch.distributions.Normal:
    return torch.distributions.Normal(said.values.double(), said.variance.double().sqrt())


def test_the_outputs_are_means_and_what_becomes_variances():
    output = torch.randn(64, 4)
    mean, variance = KIND._moments(KIND.as_logits(output))
    torch.testing.assert_close(mean, output[:, :2])
    torch.testing.assert_close(variance, torch.nn.functional.softplus(output[:, 2:]) + 1e-4, rtol=1e-5, atol=1e-6)


def test_a_hidden_block_predicts_the_mean_and_variance_of_its_shares():
    scores = torch.randn(7, 2 * ROWS)
    mean, variance = KIND._moments(KIND.as_logits(scores))
    shares, places = scores.unflatten(-1, (2, ROWS)).softmax(-1), centres(scores)
    torch.testing.assert_close(mean, (shares * places).sum(-1))
    expected = (shares * (places - (shares * places).sum(-1, keepdim=True)).square()).sum(-1)
    torch.testing.assert_close(variance, expected, rtol=1e-4, atol=1e-5)


def test_all_blocks_together_are_the_normalised_geometric_mean_of_their_gaussians():
    a, b = torch.tensor([[0.0, math.log(math.e - 1)]]), torch.tensor([[3.0, math.log(math.e**0.5 - 1)]])  # v = 1, 0.5
    kind = GaussianValues(1)
    mean, variance = kind._moments(combined(kind, [a, b]))
    assert mean.item() == pytest.approx((0 / 1 + 3 / 0.5) / (1 / 1 + 1 / 0.5), rel=1e-3)
    assert variance.item() == pytest.approx(2 / (1 / 1 + 1 / 0.5), rel=1e-3)


def test_the_loss_has_the_gradients_of_torchs_times_a_power_of_the_variance():
    output = torch.randn(64, 4, dtype=torch.float64, requires_grad=True)
    KIND.output_loss(output, Y.double()).backward()
    again = output.detach().clone().requires_grad_()
    variance = torch.nn.functional.softplus(again[:, 2:]) + 1e-4
    each = torch.nn.functional.gaussian_nll_loss(
        again[:, :2], KIND.scaled(Y.double()), variance, full=True, eps=1e-9, reduction="none"
    )
    (each * variance.detach().sqrt()).mean().backward()
    torch.testing.assert_close(output.grad, again.grad)


def test_an_unknown_value_and_a_sample_without_weight_count_nothing():
    output, y, kept = torch.randn(64, 4), Y.clone(), torch.arange(64) != 5
    y[5] = math.nan
    torch.testing.assert_close(KIND.output_loss(output, y), KIND.output_loss(output[kept], Y[kept]))
    weighted = Target(Y, weight=kept.float())
    torch.testing.assert_close(KIND.output_loss(output, weighted), KIND.output_loss(output[kept], Y[kept]))
    one, other = KIND.figures(KIND.measure(output, y)), KIND.figures(KIND.measure(output[kept], Y[kept]))
    assert one == pytest.approx(other)


def test_predictions_are_in_the_units_of_the_target_and_measures_are_of_them():
    net = network()
    found = net.predict(X)
    assert found.values.shape == found.variance.shape == (64, 2)
    measured = evaluate(net, [(X, Y)])
    nlls, insides = ([*measured.measured[name], measured.combined[name]] for name in ("gaussian_nll", "inside90"))
    for said, nll, inside in zip((*found.blocks, found.combined), nlls, insides, strict=True):
        assert nll == pytest.approx(-normal(said).log_prob(Y.double()).mean().item(), rel=1e-4)
        low, high = said.interval(0.9)
        assert inside == pytest.approx(100 * ((low <= Y) & (high >= Y)).double().mean().item())
        torch.testing.assert_close(
            normal(said).cdf(high.double()), torch.full((64, 2), 0.95).double(), atol=1e-3, rtol=0
        )
    assert evaluate(net, [(X, Y)]).nll == pytest.approx(evaluate(net, [(X, Y)]).measured["gaussian_nll"][-1], rel=1e-4)


def test_a_temperature_multiplies_the_variance_and_moves_no_value():
    net = network()
    usual, hot = net.predict(X), net.predict(X, temperatures=Temperatures((2.0, 3.0, 4.0), 5.0))
    for one, other, factor in zip(
        (*usual.blocks, usual.combined), (*hot.blocks, hot.combined), (2, 3, 4, 5), strict=True
    ):
        torch.testing.assert_close(other.values, one.values)
        torch.testing.assert_close(other.variance, factor * one.variance)
    with pytest.raises(InputError, match="2 temperatures, and the network has 3 blocks"):
        net.predict(X, temperatures=Temperatures((1.0, 1.0)))
    with pytest.raises(InputError, match="above 0, not 0"):
        Temperatures((0.0,))


def test_every_block_learns_where_the_noise_is():
    x = torch.rand(2048, 5)
    noise = torch.where(x[:, 1] > 0.5, 1.0, 0.1)
    y = (6 * x[:, 0]).sin() + noise * torch.randn(2048)
    kind = GaussianValues.of(y)

    def trained(rule: str) -> bl.BlockLocal:
        net = network(kind, rule=rule, optimizer=bl.adam(lr=0.01), readout=1)
        for epoch in range(12):
            for part in torch.randperm(2048, generator=torch.Generator().manual_seed(epoch)).split(128):
                net.step(x[part], y[part])
        return net

    net = trained("block-local")
    for said in net.predict(x).blocks:
        loud = said.variance[x[:, 1] > 0.5].mean() / said.variance[x[:, 1] < 0.5].mean()
        assert loud > 3
    assert mismatch(net.predict(x).variance[:, 0], (net.predict(x).values[:, 0] - y).square()).spearman > 0.3
    nll = evaluate(net, [(x, y)]).measured["gaussian_nll"][-1]
    assert nll < evaluate(trained("frozen"), [(x, y)]).measured["gaussian_nll"][-1]


def test_sequences_have_a_mean_and_a_variance_at_every_position():
    kind = GaussianValues(1)
    model = torch.nn.Sequential(*[torch.nn.Linear(4, 4) for _ in range(3)], torch.nn.Linear(4, 2))
    x = torch.randn(6, 9, 4)
    net = bl.BlockLocal(bl.split(model, 2), values=kind, example=x, readout=0)
    net.step(x, x[..., :1])
    found = net.predict(x)
    assert found.values.shape == found.variance.shape == (6, 9, 1)


@pytest.mark.parametrize(
    "rule", ["backprop", "greedy", "direct-feedback-alignment", "feedback-alignment", "deep-supervision"]
)
def test_every_rule_takes_them(rule):
    net = network(rule=rule)
    before = evaluate(net, [(X, Y)]).measured["gaussian_nll"][-1]
    for _ in range(40):
        net.step(X, Y)
    assert evaluate(net, [(X, Y)]).measured["gaussian_nll"][-1] < before


def test_what_cannot_be_is_refused():
    model = bl.build_model("mlp", classes=2, input_shape=(5,), width=16)
    with pytest.raises(InputError, match="end the model with a layer of 4 outputs"):
        bl.BlockLocal(bl.split(model, 3), values=KIND)
    plain = bl.BlockLocal(bl.split(bl.build_model("mlp", classes=1, input_shape=(5,), width=16), 3), values=1)
    with pytest.raises(InputError, match="predicts no variance"):
        _ = plain.predict(X).variance
    with pytest.raises(InputError, match="between 0 and 1, such as"):
        network().predict(X).interval(1)
    assert z_score(0.9) == pytest.approx(1.6448536)


def test_in_half_precision_the_mean_is_not_rounded_again():
    output = torch.tensor([[3.1, 8.0, -9.0, -9.0]])
    for kind in (torch.bfloat16, torch.float16):
        mean, _ = KIND._moments(KIND.as_logits(output.to(kind)))
        torch.testing.assert_close(mean, output.to(kind)[:, :2].float(), rtol=1e-5, atol=1e-5)


def test_temperatures_of_plain_values_are_refused():
    model = bl.build_model("mlp", classes=1, input_shape=(5,), width=16)
    plain = bl.BlockLocal(bl.split(model, 3), values=1)
    plain.predict(X, temperatures=Temperatures((1.0, 1.0, 1.0)))
    with pytest.raises(InputError, match="predicts values alone"):
        plain.predict(X, temperatures=Temperatures((2.0, 1.0, 1.0)))
