"""What a run is held against. Oracles: statistics taken by hand, folders whose one right answer is known."""

import pytest
import torch
from rule_helpers import data, disturb, network, same, state
from run_helpers import assert_refused, cli, tiny, whole, without_reports

from blocklocal.diagnose import diagnose_run
from blocklocal.diagnose.measure import measure
from blocklocal.diagnose.references import find_backprop, follow_statistics, initial_network, open_run
from blocklocal.families import family
from blocklocal.runs.build import build_network
from blocklocal.runs.facts import DatasetInfo
from blocklocal.runs.sets import load_data

# --- the untrained network


def test_statistics_are_the_mean_over_the_batches_and_weights_stay():
    net, batches = network("sequential", "frozen").eval(), [data("sequential", seed) for seed in range(3)]
    weights = {name: p.clone() for name, p in net.named_parameters()}
    follow_statistics(net, batches)
    first, norm = net.split.model[0], net.split.model[1]
    maps = [first(x) for x, _ in batches]
    torch.testing.assert_close(norm.running_mean, torch.stack([a.mean((0, 2, 3)) for a in maps]).mean(0))
    torch.testing.assert_close(norm.running_var, torch.stack([a.var((0, 2, 3)) for a in maps]).mean(0))
    assert same({name: p.detach() for name, p in net.named_parameters()}, weights)
    assert norm.momentum == 0.1
    assert not net.training


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with without_reports():
        return whole(tiny(epochs=1), tmp_path_factory.mktemp("one") / "run")


def test_the_untrained_network_has_the_weights_that_training_began_with(run):
    opened, config = open_run(run), tiny(epochs=1)
    began = build_network(config, DatasetInfo.of(load_data(config)), torch.device("cpu"))
    assert same(state(initial_network(opened)), state(began))
    assert not same(state(opened.network), state(began))


def test_a_run_is_opened_in_the_epoch_it_was_saved_in(run):
    assert open_run(run).epoch == 0


def test_measuring_changes_nothing():
    net = network("resnet20").train()
    disturb(net)
    before, batches = state(net), [data("resnet20", samples=10)]
    measure(net, family("rectified"), batches, batches)
    assert same(state(net), before)
    assert net.training
    assert all(p.grad is None for p in net.parameters())


def test_what_is_read_off_the_last_block_are_its_logits():
    """Logits that are all negative would be lost behind a ReLU."""
    net = network("mlp")
    with torch.no_grad():
        list(net.split.model.parameters())[-1].sub_(1e3)  # the bias of the head
    batches = [data("mlp", samples=20)]
    assert measure(net, family("rectified"), batches, batches).explained[-1] > 5


# --- the backprop run


def beside(folder, name, **changes):
    with without_reports():
        return whole(tiny(**{"epochs": 1, "rule": "backprop", **changes}), folder / name)


def test_of_several_backprop_runs_the_one_most_alike_is_taken(tmp_path):
    run = beside(tmp_path, "run", rule="block-local", seed=1)
    assert find_backprop(open_run(run)) is None
    for name, changes in {"a-wide": {"width": 8}, "c-data": {"split_seed": 5}}.items():
        beside(tmp_path, name, **changes)
    beside(tmp_path, "d-greedy", rule="greedy")
    (tmp_path / "e-empty").mkdir()
    (tmp_path / "f-damaged").mkdir()
    (tmp_path / "f-damaged" / "config.json").write_text("{")
    assert find_backprop(open_run(run)) is None
    other_seed = beside(tmp_path, "z-seed", seed=0)
    assert find_backprop(open_run(run)) == other_seed
    beside(tmp_path, "a-trained-otherwise", seed=0, lr=0.05, weight_decay=0.0)
    assert find_backprop(open_run(run)) == other_seed
    alike = beside(tmp_path, "zz-alike", seed=1)
    assert find_backprop(open_run(run)) == alike


def test_a_run_that_was_trained_otherwise_is_said_to_be(run, tmp_path):
    other = beside(tmp_path, "other", lr=0.05)
    said = cli("diagnose", run, "--against", other)
    assert said.status == 0, said.text
    assert f"held against {other}, which was trained otherwise: lr 0.05 there, 0.1 here." in said.text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"width": 8}, "width 8 there, 4 here"),
        ({"blocks": 3, "rule": "greedy"}, "blocks 3 there, 2 here"),
        ({"split_seed": 5}, "split_seed 5 there, 0 here"),
        ({"train_size": 50}, "train_size 50 there, 60 here"),
    ],
    ids=lambda value: None if isinstance(value, str) else next(iter(value)),
)
def test_a_run_of_another_model_cut_or_data_is_refused(run, tmp_path, changes, words):
    other = beside(tmp_path, "other", **changes)
    said = cli("diagnose", run, "--against", other)
    assert_refused(said, "cannot be held against", words, "same model and data", "same cut", "--rule backprop")


@pytest.mark.parametrize("cut", [{"blocks": 1}, {"blocks": 3}, {"at": ("hidden2",)}], ids=str)
def test_a_backprop_run_is_cut_as_the_run_is(run, tmp_path, cut):
    """Its weights know nothing of the cut: every run of the same settings says the same of every block."""
    beside(tmp_path, "as-the-run")
    beside(tmp_path, "otherwise", **cut)
    wanted, found = (diagnose_run(run, against=tmp_path / name) for name in ("as-the-run", "otherwise"))
    assert found.blocks == wanted.blocks
    assert all(block.against_probe is not None for block in found.blocks)


def test_a_backprop_run_of_another_cut_is_found(tmp_path):
    run = beside(tmp_path, "run", rule="block-local")
    uncut = beside(tmp_path, "uncut", blocks=1)
    assert find_backprop(open_run(run)) == uncut


def test_another_set_of_the_same_settings_is_refused(run, tmp_path):
    other = beside(tmp_path, "other")
    facts = (other / "data.json").read_text()
    (other / "data.json").write_text(facts.replace('"mean": [0.', '"mean": [0.1'))
    assert_refused(cli("diagnose", run, "--against", other), "data digits there, digits here")


def test_a_folder_that_is_no_run_is_refused(run, tmp_path):
    assert_refused(cli("diagnose", run, "--against", tmp_path), "config.json is missing")
