"""Parameter groups, what weight decay is on, and warm-up, against torch's own optimisers and a closed form."""

import math

import pytest
import torch
from rule_helpers import data, network, same, state
from torch import nn

import blocklocal as bl
from blocklocal import BlockLocal, InputError, Optimizer, Trainer, adamw, sgd, split
from blocklocal.block.schedules import warmup_cosine

BATCHES = [data(seed=seed) for seed in range(3)]


def token_model() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8), nn.GELU()) for _ in range(3)]
    return nn.Sequential(nn.Embedding(11, 8), *layers, nn.Linear(8, 11))


def tokens(optimizer: Optimizer) -> BlockLocal:
    x = torch.randint(11, (4, 6), generator=torch.Generator().manual_seed(1))
    return BlockLocal(split(token_model(), blocks=3), classes=11, example=x, family="gaussian", optimizer=optimizer)


def decays(net: BlockLocal) -> dict[str, float]:
    """Weight decay of every parameter by its name in the user's model, or here."""
    found = {}
    for learner in net.learners:
        names = {id(p): learner.names.get(name, name) for name, p in learner.named_parameters()}
        for group in learner.optimizer.param_groups:
            found |= {names[id(p)]: group["weight_decay"] for p in group["params"]}
    return found


def test_adamw_spares_biases_and_norms_of_blocks_with_a_layer_norm_and_decays_matrices_and_embeddings():
    found = decays(tokens(adamw(weight_decay=0.1)))
    assert found["0.weight"] == found["1.1.weight"] == 0.1
    assert found["1.0.weight"] == found["1.0.bias"] == found["1.1.bias"] == 0.0


@pytest.mark.parametrize("optimizer", [sgd(weight_decay=0.1), adamw(weight_decay=0.1, decay="all")])
def test_otherwise_weight_decay_is_on_everything(optimizer):
    assert set(decays(tokens(optimizer)).values()) == {0.1}


def test_a_network_without_layer_norms_has_one_group_under_adamw_as_before():
    net = network("mlp", optimizer=adamw(weight_decay=0.1))
    assert [len(learner.optimizer.param_groups) for learner in net.learners] == [1, 1, 1]


def test_decay_on_matrices_is_torchs_adamw_with_two_groups():
    ours, theirs = (network("mlp") for _ in range(2))
    Trainer(ours, optimizer=adamw(0.01, weight_decay=0.1, decay="matrices"), epochs=2, schedule="constant").fit(BATCHES)

    def two_groups(parameters):
        parts = [[p for p in parameters if p.dim() > 1], [p for p in parameters if p.dim() < 2]]
        pairs = zip(parts, (0.1, 0.0), strict=True)
        return torch.optim.AdamW([{"params": part, "weight_decay": wd} for part, wd in pairs if part], lr=0.01)

    Trainer(theirs, optimizer=two_groups, epochs=2, schedule="constant").fit(BATCHES)
    assert same(state(ours), state(theirs))


@pytest.mark.parametrize("recipe", [sgd, lambda **kw: Optimizer.of(torch.optim.Adam, **kw)], ids=["name", "factory"])
def test_groups_gives_settings_by_the_names_of_the_users_model(recipe):
    seen = []

    def groups(name, parameter):
        seen.append(name)
        return {"lr": 0.5} if name == "1.1.weight" else None

    net = tokens(recipe(groups=groups))
    own = {name for name, _ in token_model().named_parameters()}
    assert own < set(seen)
    assert all(name.startswith("local.") for name in set(seen) - own)
    rates = {id(p): g["lr"] for u in net.learners for g in u.optimizer.param_groups for p in g["params"]}
    assert {name for name, p in net.split.model.named_parameters() if rates[id(p)] == 0.5} == {"1.1.weight"}


def test_one_cycle_rises_to_the_rate_of_every_group():
    net = tokens(sgd(0.1, groups=lambda name, p: {"lr": 0.5} if p.dim() < 2 else {}))
    net.configure(net.optimizer, "one-cycle", 10)
    assert {group["max_lr"] for learner in net.learners for group in learner.optimizer.param_groups} == {0.1, 0.5}


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        (3, "groups must be a function"),
        (lambda name, p: 3, "must give settings"),
        (lambda name, p: {"params": []}, "must give settings"),
        (lambda name, p: 1 / 0, "ZeroDivisionError"),
        (lambda name, p: {"lr": -1.0}, "lr of groups must be"),
        (lambda name, p: {"rate": 1.0}, "unknown setting of groups 'rate'"),
    ],
)
def test_groups_that_give_no_settings_are_refused(groups, words):
    with pytest.raises(InputError, match=words):
        tokens(sgd(groups=groups))


def test_an_unknown_decay_is_refused_with_the_nearest_name():
    with pytest.raises(InputError, match="Did you mean 'matrices'"):
        adamw(decay="matrice")


def test_warm_up_and_cosine_have_the_closed_form():
    net, steps, rising = network("mlp", optimizer=sgd(lr=0.2)), 20, 4
    net.configure(net.optimizer, warmup_cosine(0.2), steps)
    rates = []
    for _ in range(steps):
        rates.append(net.rate())
        net.step(*data())
    wanted = [0.2 * (t + 1) / rising for t in range(rising)]
    wanted += [0.1 * (1 + math.cos(math.pi * k / (steps - rising + 1))) for k in range(1, steps - rising + 1)]
    assert rates == pytest.approx(wanted)
    assert net.rate() == pytest.approx(0.0, abs=1e-9)


def test_the_schedule_by_name_is_a_warm_up_of_a_twentieth():
    found = []
    for schedule in ("warmup-cosine", warmup_cosine(0.05)):
        net = network("mlp")
        Trainer(net, optimizer=sgd(0.1), epochs=7, schedule=schedule).fit(BATCHES)
        found.append(state(net))
    assert same(*found)


@pytest.mark.parametrize("share", [0.0, 1.0, -1, float("nan")])
def test_a_warm_up_must_be_a_share_of_the_steps(share):
    with pytest.raises(InputError, match="warmup"):
        warmup_cosine(share)


def test_groups_and_warm_up_resume_bit_for_bit(tmp_path):
    def trainer(net):
        made = Trainer(net, optimizer=adamw(0.01, decay="matrices"), schedule=warmup_cosine(0.3), epochs=2)
        made.prepare(BATCHES)
        return made

    whole, first, second = (network("mlp") for _ in range(3))
    trainer(whole).fit(BATCHES)
    stopped = trainer(first)
    stopped.should_stop = lambda: first.steps == 4
    with pytest.raises(bl.training.loop.Stopped):
        stopped.fit(BATCHES)
    bl.save(first, tmp_path / "kept", trainer=stopped)
    again = trainer(second)
    bl.load(second, tmp_path / "kept", trainer=again)
    again.fit(BATCHES)
    assert same(state(whole), state(second))


# --- a rate of their own for the weights of lower blocks


def rates(net: BlockLocal) -> list[dict[str, float]]:
    """Of every block: the learning rate of each parameter by its name here."""
    found = []
    for learner in net.learners:
        names = {id(p): name for name, p in learner.named_parameters()}
        groups = learner.optimizer.param_groups
        found.append({names[id(p)]: group["lr"] for group in groups for p in group["params"]})
    return found


@pytest.mark.parametrize("optimizer", [sgd(0.5, lower=0.1), bl.adam(0.5, lower=0.1), adamw(0.5, lower=0.1)])
def test_own_weights_of_lower_blocks_have_a_share_of_the_rate_and_what_is_added_the_whole(optimizer):
    *lower, last = rates(tokens(optimizer))
    for block in lower:
        for name, rate in block.items():
            assert rate == pytest.approx(0.05 if name.startswith("block.") else 0.5)
        assert {name.partition(".")[0] for name in block} == {"block", "local"}
    assert set(last.values()) == {0.5}


@pytest.mark.parametrize("schedule", [warmup_cosine(0.3), "one-cycle", "cosine"])
def test_a_schedule_scales_both_rates(schedule):
    net = tokens(adamw(0.5, lower=0.1))
    x = torch.randint(11, (4, 6), generator=torch.Generator().manual_seed(1))
    seen = []

    class Rates(bl.Callback):
        def step(self, trainer, losses):
            seen.append([group["lr"] for group in net.learners[0].optimizer.param_groups])

    given = {"optimizer": adamw(0.5, lower=0.1), "schedule": schedule, "callbacks": [Rates()]}
    Trainer(net, epochs=1, **given).fit([(x, x)] * 5)
    assert len({rate for each in seen for rate in each}) > 4
    for each in seen:
        assert min(each) == pytest.approx(0.1 * max(each), abs=1e-6)


def test_a_share_that_is_none_and_a_rule_without_lower_blocks_are_refused():
    with pytest.raises(InputError, match="lower"):
        adamw(lower=0)
    with pytest.raises(InputError, match=r"lower=0\.1 is for blocks that learn by themselves"):
        network("mlp", rule="backprop", optimizer=adamw(lower=0.1))


def test_a_factory_has_a_rate_of_its_own():
    with pytest.raises(InputError, match="a factory has a rate of its own"):
        Optimizer("custom", factory=torch.optim.AdamW, lower=0.1)
