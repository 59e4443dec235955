"""What a network refuses: one clear message each, and nothing changed."""

import pytest
import torch
from rule_helpers import CLASSES, build, data, network, parameters, same, state

from blocklocal import BlockLocal, InputError, Learning, Trainer, evaluate, load, save, split


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rule": "block-locel"}, "block-local"),
        ({"family": "bernouli"}, "bernoulli"),
        ({"objective": "evidense"}, "evidence"),
        ({"twin": "mirored"}, "mirrored"),
        ({"objectiv": "evidence"}, "objective"),
        ({"scope": "neighbor"}, "neighbour"),
        ({"order": "secnd"}, "second"),
        ({"reconstruct": "images"}, "image"),
    ],
)
def test_a_wrong_name_is_answered_with_the_nearest(wrong, message):
    with pytest.raises(InputError, match=f"Did you mean '{message}'"):
        network("mlp", **{"rule": "block-local", **wrong})


@pytest.mark.parametrize("given", [{}, {"classes": 5, "labels": 5}, {"labels": 5, "values": 5}])
def test_one_kind_of_target_is_named_and_not_two_or_none(given):
    with pytest.raises(InputError, match=r"either classes= .* values= .* or tokens="):
        BlockLocal(split(build("mlp"), 2), **given)


@pytest.mark.parametrize("given", [{"classes": 7}, {"labels": 3}])
def test_another_number_of_outputs_than_targets(given):
    with pytest.raises(InputError, match=r"5\] values per sample, but there are"):
        BlockLocal(split(build("mlp"), 2), **given)


@pytest.mark.parametrize("shape", [(4, 1, 16, 16), (4, 3, 8, 8), (1, 8, 8), (4, 64)])
@pytest.mark.parametrize("call", ["step", "predict", "forward", "block_logits"])
def test_another_input_shape_than_the_model_takes(shape, call):
    net = network("resnet18")
    given = (torch.randn(shape), data()[1]) if call == "step" else (torch.randn(shape),)
    with pytest.raises(InputError, match=r"the model takes \[B, 1, 8, 8\]"):
        getattr(net, call)(*given)


def test_another_number_of_targets_than_samples():
    net, (x, y) = network("mlp"), data()
    before = parameters(net)
    with pytest.raises(InputError, match=r"targets of shape \[3\] for 4 samples"):
        net.step(x, y[:3])
    assert same(parameters(net), before)


@pytest.mark.parametrize("wrong", [5, -1])
def test_a_target_outside_the_classes_changes_nothing(wrong):
    net, (x, y) = network("mlp"), data()
    before, y[1] = state(net), wrong
    with pytest.raises(InputError, match=rf"target {wrong} is outside the classes 0 … 4"):
        net.step(x, y)
    assert same(state(net), before)


@pytest.mark.parametrize(
    "wrong",
    [{"temperature": 0.0}, {"tau": -1.0}, {"reconstruction": -1.0}, {"readout": -1}, {"label_smoothing": 1.0}],
)
def test_impossible_numbers_by_name(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        network("mlp", **wrong)


@pytest.mark.parametrize("seed", ["a", -1, 2**63, 2**70, 1.5, True, None])
def test_a_seed_that_is_none(seed):
    with pytest.raises(InputError, match="seed must be a whole number of at least 0"):
        BlockLocal(split(build("mlp"), 2), classes=CLASSES, seed=seed)


@pytest.mark.parametrize("learning", [{"rule": "greedy"}, "greedy", Learning])
def test_settings_that_are_no_learning(learning):
    with pytest.raises(InputError, match=r"learning must be a Learning, as in Learning\(rule='greedy'\), not "):
        BlockLocal(split(build("mlp"), 2), classes=CLASSES, learning=learning)


@pytest.mark.parametrize("dtype", ["bfloat16", torch.int8, torch.complex64, True])
def test_a_precision_that_is_no_floating_type(dtype):
    net = network("mlp")
    with pytest.raises(InputError, match="autocast takes a floating type"):
        net.autocast(dtype)
    net.step(*data("mlp"))


@pytest.mark.parametrize("wrong", [[1], [1, 2, 3], [-1, 2], [1, -2], [1.5, 2.0], 3], ids=str)
def test_a_state_dict_whose_steps_and_epoch_are_none_changes_nothing(wrong):
    net, other = network("mlp"), network("mlp", seed=1)
    before = state(net)
    with pytest.raises(InputError, match="two whole numbers from 0 on, steps and epoch"):
        net.load_state_dict({**other.state_dict(), "_extra_state": torch.tensor(wrong)})
    assert same(state(net), before)
    assert (net.steps, net.epoch) == (0, 0)


PLAIN = {
    "Trainer": Trainer,
    "evaluate": lambda model: evaluate(model, [data("mlp")]),
    "save": lambda model: save(model, "nowhere"),
    "load": lambda model: load(model, "nowhere"),
}


@pytest.mark.parametrize("call", PLAIN)
def test_a_plain_model_in_the_place_of_a_network(call):
    with pytest.raises(InputError, match=r"must be a BlockLocal, not Linear: give BlockLocal\(split\(model"):
        PLAIN[call](torch.nn.Linear(2, 2))


def test_eq_8_as_printed_for_other_units_than_bernoulli():
    with pytest.raises(InputError, match="family='bernoulli'"):
        network("mlp", objective="printed-eq8")


def test_a_module_that_is_not_cut_yet():
    with pytest.raises(InputError, match=r"split\(model, blocks="):
        BlockLocal(build("mlp"), classes=CLASSES)
