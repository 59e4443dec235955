"""The running mean of the weights. Oracle: torch's AveragedModel; it is saved, spread and streamed as they are."""

import json
from dataclasses import replace

import pytest
import streaming_helpers as st
import torch
from rule_helpers import data, network, same, state
from run_helpers import assert_same_run, cli, stopped, tiny, train, whole
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import blocklocal as bl
from blocklocal import InputError, Trainer, adamw, sgd
from blocklocal.runs.looking import load_network
from blocklocal.runs.run import resume_run
from blocklocal.training.loop import Stopped

BATCHES = [data(seed=seed) for seed in range(4)]


def parameters(net):
    return {name: p.detach().clone() for name, p in net.named_parameters()}


@pytest.mark.parametrize("optimizer", [sgd(lr=0.1, momentum=0.0), adamw(lr=0.01)], ids=["sgd", "adamw"])
def test_the_mean_is_that_of_torchs_averaged_model(optimizer):
    net = network("mlp")
    net.configure(replace(optimizer, ema=0.9))
    average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    for batch in BATCHES:
        net.step(*batch)
        average.update_parameters(net)
    wanted = parameters(average.module)
    trained = parameters(net)
    with net.averaged():
        assert same(parameters(net), wanted)
    assert same(parameters(net), trained)


def test_training_itself_is_the_same_with_a_mean():
    nets = [network("mlp") for _ in range(2)]
    for net, ema in zip(nets, (None, 0.5), strict=True):
        Trainer(net, optimizer=sgd(lr=0.1), epochs=2, ema=ema).fit(BATCHES)
    assert same(state(nets[0]), state(nets[1]))


def test_validation_is_of_the_mean():
    net = network("mlp", optimizer=sgd(lr=0.5))
    (record,) = Trainer(net, epochs=1, ema=0.99).fit(BATCHES, [data(seed=9, samples=40)])
    with net.averaged():
        assert record["validation_top1"] == bl.evaluate(net, [data(seed=9, samples=40)]).block_top1


def test_the_mean_resumes_bit_for_bit(tmp_path):
    def trainer(net, **settings):
        made = Trainer(net, optimizer=adamw(0.01), epochs=2, ema=0.9, **settings)
        made.prepare(BATCHES)
        return made

    once, first, second = (network("mlp") for _ in range(3))
    trainer(once).fit(BATCHES)
    half = trainer(first, should_stop=lambda: first.steps == 5)
    with pytest.raises(Stopped):
        half.fit(BATCHES)
    bl.save(first, tmp_path / "kept", trainer=half)
    again = trainer(second)
    bl.load(second, tmp_path / "kept", trainer=again)
    again.fit(BATCHES)
    with once.averaged(), second.averaged():
        assert same(state(once), state(second))


def test_a_checkpoint_without_a_mean_is_refused_where_one_is_wanted(tmp_path):
    nets = [network("mlp") for _ in range(2)]
    Trainer(nets[0], optimizer=adamw(), epochs=1).fit(BATCHES)
    bl.save(nets[0], tmp_path / "kept")
    Trainer(nets[1], optimizer=adamw(), epochs=1, ema=0.9).prepare(BATCHES)
    with pytest.raises(InputError, match="no running mean"):
        bl.load(nets[1], tmp_path / "kept")


def test_the_mean_is_neither_trained_nor_saved_and_one_must_be_kept(tmp_path):
    net = network("mlp")
    with pytest.raises(InputError, match="keeps no running mean"), net.averaged():
        pass
    Trainer(net, epochs=1, ema=0.9).fit(BATCHES)
    with net.averaged():
        with pytest.raises(InputError, match="within averaged"):
            net.step(*BATCHES[0])
        with pytest.raises(InputError, match="within averaged"):
            bl.save(net, tmp_path / "kept")
    net.step(*BATCHES[0])


@pytest.mark.parametrize("ema", [0.0, 1.0, -0.5])
def test_a_mean_keeps_a_share_between_nothing_and_all(ema):
    with pytest.raises(InputError, match="ema"):
        Trainer(network("mlp"), ema=ema)


@pytest.mark.parametrize("store", ["ram", "files"])
def test_a_streamed_network_keeps_the_same_mean(tmp_path, store):
    def build():
        return network("mlp", optimizer=sgd(lr=0.1))

    one, streamed = build(), bl.Streamed(build, visit=2, store="ram" if store == "ram" else tmp_path / "store")
    for net in (one, streamed):
        Trainer(net, epochs=2, ema=0.9).fit(BATCHES)
    st.assert_same_network(one, streamed)
    with one.averaged(), streamed.averaged():
        found = [each.probabilities for net in (one, streamed) for each in [net.predict(BATCHES[0][0])]]
        assert torch.equal(*found)
        streamed.export(tmp_path / "model")
    assert not torch.equal(found[0], one.predict(BATCHES[0][0]).probabilities)


def test_a_run_evaluates_and_predicts_by_the_mean_and_resumes(tmp_path):
    config = tiny(ema=0.8)
    done, other = whole(config, tmp_path / "whole"), stopped(config, tmp_path / "two", steps=4)
    resume_run(other, quiet=True)
    assert_same_run(done, other)
    said = cli("evaluate", done, "--json", tmp_path / "figures.json")
    assert said.status == 0
    figures, result = (json.loads(file.read_text()) for file in (tmp_path / "figures.json", done / "summary.json"))
    assert figures["nll"] == result["test_nll"]
    raw = whole(tiny(), tmp_path / "raw")
    assert json.loads((raw / "summary.json").read_text())["test_nll"] != result["test_nll"]
    nets = [load_network(run)[2] for run in (done, raw)]
    assert not same(state(nets[0]), state(nets[1]))


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("--visit", 2)])
def test_several_processes_keep_the_same_mean(tmp_path, more):
    train(tmp_path / "one", ema=0.8)
    assert train(tmp_path / "two", "--processes", 2, *more, ema=0.8).status == 0
    assert_same_run(tmp_path / "one" / "run", tmp_path / "two" / "run")
