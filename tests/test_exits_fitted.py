"""Exits fitted on validation data: calibration, budgets and risks. Oracles: torch, scipy, and `network.predict`."""

import json
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import blocklocal as bl
from blocklocal._common.errors import InputError
from blocklocal.exits import FittedExits, fit_exits, load_exits
from blocklocal.exits.answers import answers_of
from blocklocal.exits.choice import p_value
from blocklocal.exits.costs import costs_of
from blocklocal.uncertainty.measures import adaptive_calibration_error

C = 4


def noisy(samples: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Points of which some are easy to tell and some are not."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, 6, generator=draw)
    return x, (x[:, :C] + 0.4 * torch.randn(samples, C, generator=draw)).argmax(1)


def batches(seed: int, samples: int = 400) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(x, y) for x, y in zip(*(t.split(100) for t in noisy(samples, seed)), strict=True)]


@pytest.fixture(scope="module")
def net() -> bl.BlockLocal:
    torch.manual_seed(0)
    layers = [layer for _ in range(3) for layer in (nn.Linear(6 if _ == 0 else 16, 16), nn.ReLU())]
    model = nn.Sequential(*layers, nn.Linear(16, C))
    made = bl.BlockLocal(bl.split(model, 4), classes=C, example=torch.zeros(2, 6), readout=0, optimizer=bl.adam(0.01))
    for _ in range(12):
        for x, y in batches(1, 1000):
            made.step(x, y)
    return made


@pytest.fixture(scope="module")
def fitted(net) -> FittedExits:
    return fit_exits(net, batches(2))


def test_a_temperature_is_the_one_with_the_least_loss_and_changes_no_answer(net, fitted):
    x, y = noisy(400, 2)
    logits = net.eval().block_logits(x)
    net.train()
    for k, found in enumerate(fitted.own):

        def loss(t, k=k):
            return F.cross_entropy(logits[k] / t, y).item()

        assert found.nll_before == pytest.approx(loss(1.0), rel=1e-5)
        assert found.nll == pytest.approx(loss(found.temperature), rel=1e-5)
        assert found.nll <= min(loss(found.temperature * f) for f in (0.9, 0.97, 1.03, 1.1)) + 1e-6
        p = (logits[k] / found.temperature).softmax(-1)
        assert found.brier == pytest.approx((p - F.one_hot(y, C)).square().sum(-1).mean().item(), rel=1e-4)
        assert found.right == pytest.approx((p.argmax(-1) == y).double().mean().item())
    both = torch.stack(logits[:2]).mean(0)
    assert fitted.together[1].nll_before == pytest.approx(F.cross_entropy(both, y).item(), rel=1e-5)


def test_what_a_setting_comes_to_is_what_predict_does(net, fitted):
    x, y = noisy(400, 2)
    plain, costs = net.predict(x), costs_of(net, x)
    for budget in (0.5, 0.8, 1.0, 1.0):
        try:
            choice = fitted.for_budget(budget)
        except InputError:
            continue
        found = net.predict(x, choice.exits)
        asked = [choice.exits.asks(k) and k < 3 for k in range(4)]
        price = torch.tensor(costs.leaving(asked))[found.block - 1].mean().item()
        assert price == pytest.approx(choice.setting.cost, rel=1e-4)
        assert price <= budget + 1e-6
        assert (found.label == y).double().mean().item() == pytest.approx(choice.setting.right)
        assert (found.label != plain.label).double().mean().item() == pytest.approx(choice.setting.changed)


def test_every_setting_of_every_rule_is_what_predict_does(net, fitted):
    x, y = noisy(400, 2)
    for way in fitted.settings:
        for setting in way[:: max(1, len(way) // 3)]:
            found = net.predict(x, fitted._exits(setting))
            assert (found.label == y).double().mean().item() == pytest.approx(
                setting.right, abs=0.003
            )  # ties of floats


def test_a_larger_budget_is_never_less_accurate_on_the_validation_set(fitted):
    rights = []
    for budget in (0.4, 0.6, 0.8, 1.0, 1.0):
        try:
            rights.append(fitted.for_budget(budget).setting.right)
        except InputError:
            rights.append(0.0)
    assert rights == sorted(rights)


def test_a_budget_below_the_cheapest_exit_is_refused(fitted):
    with pytest.raises(InputError, match="the cheapest takes 0"):
        fitted.for_budget(0.001)
    for bad in (0, -1, 1.5, True, "half"):
        with pytest.raises(InputError, match="above 0 and at most 1"):
            fitted.for_budget(bad)
        with pytest.raises(InputError, match="above 0 and at most 1"):
            fitted.for_risk(bad)


def test_where_so_small_a_risk_cannot_be_shown_nobody_leaves(net, fitted):
    choice, x = fitted.for_risk(0.0001), noisy(50, 7)[0]
    assert choice.setting.cost == 1
    assert torch.equal(net.predict(x, choice.exits).label, net.predict(x).label)
    assert fitted.for_risk(0.3).setting.cost < 1


def test_costs_are_the_products_of_the_layers(net):
    costs = costs_of(net, torch.zeros(5, 6))
    assert costs.blocks == (2 * 6 * 16, 2 * 16 * 16, 2 * 16 * 16, 2 * 16 * C)
    assert costs.answers[-1] == 0
    assert costs.leaving([True, False, False, False])[-1] == pytest.approx(1 + costs.answers[0] / costs.full)
    assert costs.leaving([False] * 4)[-1] == pytest.approx(1)


def test_p_values_are_those_of_the_binomial_distribution():
    stats = pytest.importorskip("scipy.stats")
    for wrong, samples, risk in [(0, 50, 0.05), (3, 200, 0.05), (20, 1000, 0.01), (7, 7, 0.4)]:
        expected = stats.binom.cdf(wrong, samples, risk)
        assert p_value(wrong / samples, samples, risk, single=True) == pytest.approx(expected, rel=1e-6)
    assert p_value(0.02, 1000, 0.05, single=False) == pytest.approx(math.exp(-2 * 1000 * 0.03**2))
    assert p_value(0.06, 1000, 0.05, single=False) == 1


def test_the_risk_holds_in_nearly_all_validation_sets(net):
    """The share of changed answers on fresh data is above the risk in at most 5 % of 60 sets, by more than chance."""
    x, _ = noisy(20_000, 99)
    plain = net.predict(x).label
    broken = found = 0
    for seed in range(60):
        choice = fit_exits(net, batches(1000 + seed, 300)).for_risk(0.1)
        found += choice.setting.cost < 1
        broken += bool((net.predict(x, choice.exits).label != plain).double().mean() > 0.1)
    assert found > 40
    assert broken <= 7  # 3 are expected at most; 8 or more happen by chance in 1 of 100 runs


def test_sequences_count_a_sample_by_its_last_answer():
    torch.manual_seed(0)
    x = torch.randint(0, C, (60, 5))
    model = nn.Sequential(nn.Embedding(C, 8), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, C))
    net = bl.BlockLocal(bl.split(model, at=["3"]), tokens=C, example=x, readout=0, optimizer=bl.adam(0.02))
    y = torch.where(torch.rand(x.shape) < 0.2, torch.randint(0, C, x.shape), (x + 1) % C)
    for _ in range(20):
        net.step(x, y)
    fitted = fit_exits(net, [(x, y)])
    assert not fitted.single
    assert fitted.samples == 60
    for setting in fitted.settings[2][::9]:
        found = net.predict(x, fitted._exits(setting))
        prices = torch.tensor(fitted.costs.leaving([True, False]))
        assert prices[found.block.amax(1) - 1].mean().item() == pytest.approx(setting.cost, abs=0.02)


def with_labels(count: int, samples: int) -> tuple[bl.BlockLocal, torch.Tensor, torch.Tensor]:
    """A network of binary labels, trained on x and y."""
    torch.manual_seed(0)
    x = torch.randn(samples, 6)
    y = (x[:, :count] > 0).float()
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, count))
    net = bl.BlockLocal(bl.split(model, 2), labels=count, example=x, readout=0, optimizer=bl.adam(0.02))
    for _ in range(10):
        net.step(x, y)
    return net, x, y


def test_missing_targets_do_not_count_and_labels_are_calibrated():
    net, x, y = with_labels(3, samples=80)
    holes = y.clone()
    holes[:40] = -100
    said, half = answers_of(net, lambda: [(x, holes)]), answers_of(net, lambda: [(x[40:], y[40:])])
    assert said.wanted.sum() == 40 * 3
    assert said.own[0].nll == pytest.approx(half.own[0].nll)
    assert said.own[1].nll_before == pytest.approx(
        F.binary_cross_entropy(net.predict(x[40:]).probabilities, y[40:]).item(), rel=1e-5
    )


def test_answers_without_a_target_cost_as_much_and_are_neither_right_nor_wrong():
    net, x, y = with_labels(5, samples=200)
    holes = y.clone()
    holes[:, 1:][torch.rand(200, 4) < 0.9] = -100
    fitted = fit_exits(net, [(x, holes)])
    for setting in fitted.settings[2][::9]:
        found = net.predict(x, fitted._exits(setting))
        prices = torch.tensor(fitted.costs.leaving([True, False]))
        assert prices[found.block.amax(1) - 1].mean().item() == pytest.approx(setting.cost, abs=0.02)
        there = holes >= 0
        assert ((found.label == holes) & there).sum() / there.sum() == pytest.approx(setting.right, abs=0.02)


def test_one_missing_class_leaves_a_sample_with_one_answer(net):
    x, y = noisy(300, 2)
    y[0] = -100
    fitted = fit_exits(net, [(x, y)])
    assert fitted.single
    assert fitted.samples == 299


def test_it_is_kept_and_read_again(fitted, tmp_path):
    fitted.save(tmp_path / "exits.json")
    assert load_exits(tmp_path / "exits.json") == fitted
    told = json.loads((tmp_path / "exits.json").read_text())
    told["samples"] = "many"
    (tmp_path / "exits.json").write_text(json.dumps(told))
    with pytest.raises(InputError, match="samples"):
        load_exits(tmp_path / "exits.json")


@pytest.mark.parametrize("row", [[-1, 2], [0.5], [9, 9]])
def test_damaged_weights_are_refused(fitted, tmp_path, row):
    fitted.save(tmp_path / "exits.json")
    told = json.loads((tmp_path / "exits.json").read_text())
    told["weights"][1] = row
    (tmp_path / "exits.json").write_text(json.dumps(told))
    with pytest.raises(InputError, match="damaged, in their weights"):
        load_exits(tmp_path / "exits.json")


def test_what_has_no_exits_is_refused():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, C))
    alone = bl.BlockLocal(bl.split(model, 2), classes=C, example=torch.zeros(2, 6), rule="frozen")
    only = fit_exits(alone, batches(2))  # its output is calibrated all the same
    assert [each is None for each in only.own] == [True, False]
    for choose in (lambda: only.for_budget(1.0), lambda: only.for_risk(0.1)):
        with pytest.raises(InputError, match="no block but the last predicts here"):
            choose()
    values = bl.BlockLocal(bl.split(nn.Linear(6, 1), 1), values=1, example=torch.zeros(2, 6))
    with pytest.raises(InputError, match="calibration needs classes, labels or tokens"):
        fit_exits(values, [(torch.zeros(2, 6), torch.zeros(2, 1))])
    with pytest.raises(InputError, match="there is no batch"):
        fit_exits(alone, [])
    with pytest.raises(InputError, match="read more than once"):
        fit_exits(alone, iter(batches(2)))
    one = bl.BlockLocal(bl.split(model, 1), classes=C, example=torch.zeros(2, 6))
    with pytest.raises(InputError, match="in two blocks or more"):
        fit_exits(one, batches(2)).for_budget(0.5)


def test_batches_that_are_used_up_and_damaged_exits_are_refused(net, fitted):
    used = iter(batches(2))
    with pytest.raises(InputError, match="used up by the first pass"):
        fit_exits(net, lambda: used)
    with pytest.raises(InputError, match="these exits are damaged"):
        replace(fitted, own=fitted.own[:1])
    with pytest.raises(InputError, match="these exits are damaged"):
        replace(fitted, settings=[])


def test_adaptive_bins_hold_equally_many():
    sure = torch.tensor([0.6, 0.9, 0.7, 0.8])
    right = torch.tensor([True, True, False, True])
    # sorted: 0.6 right, 0.7 wrong | 0.8 right, 0.9 right
    assert adaptive_calibration_error(sure, right, bins=2) == pytest.approx((abs(0.4 - 0.7) + 0.3) / 4)
    assert adaptive_calibration_error(sure, right, bins=1) == pytest.approx(abs(3 - 3.0) / 4)


def test_weights_of_classes_teach_and_do_not_calibrate():
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(2000, 6, generator=draw)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, C))
    y = torch.multinomial(model(x).detach().softmax(1), 1, generator=draw).squeeze(1)
    weights = [1.0] * (C - 1) + [30.0]
    found = []
    for given in (None, weights):
        net = bl.BlockLocal(bl.split(model, 1), classes=C, class_weights=given, example=x[:2])
        found.append(fit_exits(net, [(x, y)]).own[-1].temperature)
    assert found[0] == found[1]
    assert found[0] == pytest.approx(1, abs=0.2)
