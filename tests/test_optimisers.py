"""Optimisers: one per block, clipping, weight decay and schedules against torch's own; label smoothing."""

import math

import pytest
import torch
import torch.nn.functional as F
from rule_helpers import data, network, parameters, same, state
from torch import nn

from blocklocal import InputError, adam, sgd
from blocklocal.optim import build_schedule


def test_every_block_has_its_own_with_all_that_it_trains_once():
    net = network("mlp", readout=1, reconstruction=1.0)
    held = [[id(p) for group in u.optimizer.param_groups for p in group["params"]] for u in net.units]
    assert [sorted(ids) for ids in held] == [sorted(id(p) for p in u.parameters()) for u in net.units]
    everything = [each for ids in held for each in ids]
    assert len(set(everything)) == len(everything) == len(list(net.parameters()))


def test_clipping_limits_the_gradient_norm_of_each_block_by_itself():
    optimizer = sgd(lr=1.0, momentum=0.0, clip=1e-3)
    net = network("mlp", optimizer=optimizer)
    before = [parameters(unit) for unit in net.units]
    net.step(*data())
    for unit, kept in zip(net.units, before, strict=True):
        moved = torch.stack([(p - kept[name]).norm() for name, p in unit.named_parameters()]).norm()
        assert moved.item() == pytest.approx(1e-3, rel=1e-2)


def test_clipping_leaves_smaller_gradients_alone():
    nets = [network("mlp", optimizer=sgd(lr=0.1, clip=clip)) for clip in (None, 1e6)]
    for net in nets:
        net.step(*data())
    assert same(state(nets[0]), state(nets[1]))


def test_weight_decay_shrinks_every_weight():
    plain, decayed = (network("mlp", optimizer=sgd(lr=0.1, momentum=0.0, weight_decay=wd)) for wd in (0.0, 0.5))
    start = parameters(plain)
    for net in (plain, decayed):
        net.step(*data())
    without, with_decay = parameters(plain), parameters(decayed)
    for name, p in start.items():
        assert torch.allclose(with_decay[name], without[name] - 0.1 * 0.5 * p, atol=1e-6), name


@pytest.mark.parametrize("recipe", [sgd(lr=0.3), adam(lr=0.02)])
def test_one_cycle_is_torchs(recipe):
    net = network("mlp")
    net.configure(recipe, "one-cycle", 6)
    p = nn.Parameter(torch.zeros(1))
    kind = torch.optim.SGD if recipe.name == "sgd" else torch.optim.Adam
    optimizer = kind([p], lr=recipe.lr, **({"momentum": 0.9} if recipe.name == "sgd" else {}))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.lr, total_steps=6)
    for _ in range(5):
        for unit in net.units:
            group = unit.optimizer.param_groups[0]
            for key in {"lr", "momentum", "betas"} & group.keys():
                assert group[key] == optimizer.param_groups[0][key]
        net.step(*data())
        optimizer.step()
        schedule.step()


def test_cosine_falls_to_zero_and_constant_stays():
    for name, last in (("cosine", 0.0), ("constant", 0.1)):
        net = network("mlp")
        net.configure(sgd(lr=0.1), name, 4)
        for _ in range(4):
            net.step(*data())
        assert [u.optimizer.param_groups[0]["lr"] for u in net.units] == pytest.approx([last] * 3, abs=1e-9)


def test_one_cycle_gives_no_momentum_to_an_optimiser_that_has_none():
    optimizer = sgd(momentum=0.0).build([nn.Parameter(torch.zeros(1))])
    build_schedule("one-cycle", optimizer, 4)
    assert optimizer.param_groups[0]["momentum"] == 0.0


@pytest.mark.parametrize(
    "wrong", [{"lr": 0.0}, {"lr": math.inf}, {"clip": -1.0}, {"momentum": 1.0}, {"weight_decay": -0.1}]
)
def test_impossible_numbers_are_refused_by_name(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        sgd(**{"lr": 0.1, **wrong})


@pytest.mark.parametrize("rule", ["block-local", "greedy", "backprop", "frozen"])
def test_label_smoothing_reaches_every_classification_loss(rule):
    net = network("mlp", rule, label_smoothing=0.2)
    x, y = data()
    results = [result for result in net.step(x, y) if result is not None]
    assert len(results) == {"block-local": 3, "greedy": 3, "backprop": 1, "frozen": 1}[rule]
    for result in results:
        smooth = F.cross_entropy(result.scores, y, label_smoothing=0.2)
        assert torch.allclose(result.loss, smooth, atol=1e-6)
        assert not torch.allclose(result.loss, F.cross_entropy(result.scores, y), atol=1e-4)


@pytest.mark.parametrize("schedule", ["one-cycle", "cosine", "constant"])
def test_training_may_go_on_after_the_schedule_at_its_last_learning_rate(schedule: str):
    net = network("mlp")
    net.configure(sgd(lr=0.1), schedule, steps=3)
    rates = []
    for _ in range(5):
        net.step(*data())
        rates.append([unit.optimizer.param_groups[0]["lr"] for unit in net.units])
    assert rates[2] == rates[3] == rates[4]
    assert (rates[0] == rates[2]) == (schedule == "constant")
