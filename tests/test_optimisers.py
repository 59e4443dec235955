"""Optimisers: one per block, clipping, weight decay and schedules against torch's own; label smoothing; factories."""

import functools
import math

import pytest
import torch
import torch.nn.functional as F
from rule_helpers import data, network, parameters, same, state
from torch import nn

import blocklocal as bl
from blocklocal import InputError, Optimizer, Trainer, adam, sgd
from blocklocal.block.schedules import build_schedule
from blocklocal.training.checkpoint import load_checkpoint, save_checkpoint
from blocklocal.training.loop import Stopped


def test_every_block_has_its_own_with_all_that_it_trains_once():
    net = network("mlp", readout=1, reconstruction=1.0)
    held = [[id(p) for group in u.optimizer.param_groups for p in group["params"]] for u in net.learners]
    assert [sorted(ids) for ids in held] == [sorted(id(p) for p in u.parameters()) for u in net.learners]
    everything = [each for ids in held for each in ids]
    assert len(set(everything)) == len(everything) == len(list(net.parameters()))


def test_clipping_limits_the_gradient_norm_of_each_block_by_itself():
    optimizer = sgd(lr=1.0, momentum=0.0, clip=1e-3)
    net = network("mlp", optimizer=optimizer)
    before = [parameters(learner) for learner in net.learners]
    net.step(*data())
    for learner, kept in zip(net.learners, before, strict=True):
        moved = torch.stack([(p - kept[name]).norm() for name, p in learner.named_parameters()]).norm()
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
        for learner in net.learners:
            group = learner.optimizer.param_groups[0]
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
        assert [u.optimizer.param_groups[0]["lr"] for u in net.learners] == pytest.approx([last] * 3, abs=1e-9)


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
        rates.append([learner.optimizer.param_groups[0]["lr"] for learner in net.learners])
    assert rates[2] == rates[3] == rates[4]
    assert (rates[0] == rates[2]) == (schedule == "constant")


# --- optimisers and schedulers of torch's or of the user's own

BATCHES = [data(seed=seed) for seed in range(3)]
RMSPROP = functools.partial(torch.optim.RMSprop, lr=0.01)
FACTORIES = {
    "class": torch.optim.RMSprop,
    "partial": functools.partial(torch.optim.SGD, lr=0.1, momentum=0.5),
    "function": lambda parameters: torch.optim.Adagrad(parameters, lr=0.05),
    "amsgrad": functools.partial(torch.optim.Adam, amsgrad=True),
    "factored": torch.optim.Adafactor,
}
SCHEDULERS = {
    "step": lambda optimizer, steps: torch.optim.lr_scheduler.StepLR(optimizer, 2),
    "lambda": lambda optimizer, steps: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps),
    "milestones": lambda optimizer, steps: torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 4]),
    "one after another": lambda optimizer, steps: torch.optim.lr_scheduler.SequentialLR(
        optimizer,
        [
            torch.optim.lr_scheduler.LinearLR(optimizer, total_iters=2),
            torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps),
        ],
        [2],
    ),
}


@pytest.mark.parametrize("factory", FACTORIES.values(), ids=FACTORIES)
def test_every_block_builds_its_own_optimiser_from_a_factory(factory):
    net = network("mlp")
    Trainer(net, optimizer=factory, epochs=1, schedule="constant").fit(BATCHES)
    wanted = factory([nn.Parameter(torch.zeros(2, 2))])
    for learner in net.learners:
        assert type(learner.optimizer) is type(wanted)
        group = learner.optimizer.param_groups[0]
        assert {id(p) for p in group["params"]} == {id(p) for p in learner.parameters()}
        assert {k: v for k, v in group.items() if k not in ("params", "initial_lr")} == {
            k: v for k, v in wanted.param_groups[0].items() if k != "params"
        }


def test_a_factory_that_makes_the_same_optimiser_trains_the_same_weights():
    nets = [network("mlp") for _ in range(2)]
    recipes = (sgd(lr=0.1), lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True))
    for net, recipe in zip(nets, recipes, strict=True):
        Trainer(net, optimizer=recipe, epochs=2).fit(BATCHES)
    assert same(state(nets[0]), state(nets[1]))


def test_a_factory_clips_where_it_is_asked_to():
    net = network("mlp", optimizer=Optimizer.of(functools.partial(torch.optim.SGD, lr=1.0), clip=1e-3))
    before = [parameters(learner) for learner in net.learners]
    net.step(*data())
    for learner, kept in zip(net.learners, before, strict=True):
        moved = torch.stack([(p - kept[name]).norm() for name, p in learner.named_parameters()]).norm()
        assert moved.item() == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.parametrize("factory", SCHEDULERS.values(), ids=SCHEDULERS)
def test_a_scheduler_factory_gives_every_block_torchs_learning_rates(factory):
    net = network("mlp")
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    schedule, wanted = factory(optimizer, 6), []
    net.learners[0].configure(sgd(lr=0.1), factory, 6)
    for _ in range(6):
        assert net.learners[0].optimizer.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]
        wanted.append(optimizer.param_groups[0]["lr"])
        net.step(*data())
        optimizer.step()
        schedule.step()
    assert len(set(wanted)) > 1


@pytest.mark.parametrize("schedule", ["one-cycle", *SCHEDULERS.values()], ids=["one-cycle", *SCHEDULERS])
@pytest.mark.parametrize("optimizer", [RMSPROP, FACTORIES["amsgrad"], FACTORIES["factored"]], ids=["rms", "ams", "ada"])
def test_a_run_of_factories_resumes_bit_for_bit_under_the_same_factories(tmp_path, optimizer, schedule):
    whole, first, second = (network("mlp") for _ in range(3))

    def trainer(net):
        made = Trainer(net, optimizer=optimizer, schedule=schedule, epochs=2)
        made.prepare(BATCHES)
        return made

    trainer(whole).fit(BATCHES)
    stopped = Trainer(first, optimizer=optimizer, schedule=schedule, epochs=2, should_stop=lambda: first.steps == 4)
    with pytest.raises(Stopped):
        stopped.fit(BATCHES)
    path = save_checkpoint(tmp_path / "checkpoints", first, stopped.state())
    resumed = trainer(second)
    resumed.restore(load_checkpoint(path, second))
    resumed.fit(BATCHES)
    assert second.steps == 6
    assert same(state(whole), state(second))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (3, "not 3"),
        ("sgd", "not 'sgd'"),
        (torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1), "ready SGD"),
        (lambda parameters: None, "made None"),
        (lambda: None, "could not be built"),
        (lambda parameters: 1 / 0, "could not be built: ZeroDivisionError: division by zero"),
        (lambda parameters: parameters.all, "could not be built: AttributeError"),
        (lambda parameters: torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1), "other parameters"),
        (torch.optim.LBFGS, "closure"),
        (functools.partial(torch.optim.SGD, lr=-1.0), "could not be built: Invalid learning rate"),
    ],
)
def test_what_gives_no_optimiser_is_refused_and_the_blocks_keep_theirs(wrong, words):
    net = network("mlp")
    before = [(learner.optimizer, learner.schedule) for learner in net.learners]
    with pytest.raises(InputError, match=words):
        Trainer(net, optimizer=wrong, epochs=1).fit(BATCHES)
    assert [(learner.optimizer, learner.schedule) for learner in net.learners] == before
    Trainer(net, optimizer=sgd(lr=0.1), epochs=1).fit(BATCHES)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("cosin", "Did you mean 'cosine'"),
        (3, "unknown schedule 3"),
        (lambda optimizer, steps: None, "made None"),
        (lambda optimizer: None, "could not be built"),
        (lambda optimizer, steps: {}["a"], "could not be built: KeyError: 'a'"),
        (lambda optimizer, steps: torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer), "measurement"),
        (
            build_schedule("constant", sgd().build([nn.Parameter(torch.zeros(1))]), 1),
            "ready scheduler",
        ),
    ],
)
def test_what_gives_no_schedule_is_refused(wrong, words):
    with pytest.raises(InputError, match=words):
        Trainer(network("mlp"), epochs=1, schedule=wrong).fit(BATCHES)


def test_one_cycle_takes_an_optimiser_with_nothing_to_cycle():
    net = network("mlp")
    Trainer(net, optimizer=functools.partial(torch.optim.Adagrad, lr=0.1), epochs=1).fit(BATCHES)
    assert net.steps == len(BATCHES)


def test_a_residual_stream_is_trained_with_adamw_and_others_with_sgd_unless_it_is_said_otherwise():
    def network(*norm, **given):
        model = nn.Sequential(nn.Linear(4, 4), *norm, nn.ReLU(), nn.Linear(4, 3))
        return bl.BlockLocal(bl.split(model, at=["2" if norm else "1"]), classes=3, **given).optimizer

    assert network().name == "sgd"
    assert (network(nn.LayerNorm(4)).name, network(nn.LayerNorm(4)).lr) == ("adamw", 1e-3)
    assert network(nn.LayerNorm(4), optimizer=bl.sgd()).name == "sgd"
