"""Early stopping and the best epoch: scores that are given say when; runs keep, resume and load what was best."""

import json

import pytest
from rule_helpers import data, network, same, state
from run_helpers import assert_same_run, cli, metrics, stopping, summary, tiny, train, whole

import blocklocal as bl
from blocklocal import EarlyStopping, InputError, KeepBest, Trainer, sgd
from blocklocal.runs.checkpoints import BEST
from blocklocal.runs.run import resume_run, start_run
from blocklocal.training.best import best_epoch, out_of_patience

BATCHES = [data(seed=seed) for seed in range(3)]
SCORES = [10.0, 30.0, 20.0, 30.0, 25.0, 40.0]  # of epochs 1, 2, …


def records(scores=SCORES):
    return [{"validation_top1": [0.0, score]} for score in scores]


def scored(record):
    """As if the epochs had these validation accuracies."""
    return SCORES[record["epoch"] - 1]


def trainer(net, *callbacks, epochs=6, **settings):
    return Trainer(net, optimizer=sgd(lr=0.05), schedule="constant", epochs=epochs, callbacks=callbacks, **settings)


def test_of_equally_good_epochs_the_first_is_the_best():
    assert [best_epoch(records()[:n]) for n in range(1, 7)] == [0, 1, 1, 1, 1, 5]


def test_patience_is_epochs_in_a_row_that_are_not_better_than_the_best():
    assert [out_of_patience(records()[:n], 3) is not None for n in range(1, 7)] == [False] * 4 + [True, False]
    assert out_of_patience(records()[:5], 3) == "no epoch was better than epoch 2 for 3 epochs"
    assert out_of_patience(records()[:5], 3, first=3) is None  # two epochs of the present schedule so far


def test_fit_stops_early_and_returns_the_records_of_the_epochs_that_were_trained():
    made = trainer(network("mlp"), EarlyStopping(3, score=scored))
    assert [record["epoch"] for record in made.fit(BATCHES)] == [1, 2, 3, 4, 5]
    assert made.stopped == "no epoch was better than epoch 2 for 3 epochs"
    assert made.fit(BATCHES) == made.records
    assert len(made.records) == 5


def test_with_enough_patience_training_ends_with_its_last_epoch():
    made = trainer(network("mlp"), EarlyStopping(4, score=scored))
    assert len(made.fit(BATCHES)) == 6
    assert made.stopped is None


def test_the_best_epoch_is_kept_and_loaded(tmp_path):
    net, plain = network("mlp"), network("mlp")
    trainer(net, KeepBest(tmp_path / "best", score=scored), epochs=5).fit(BATCHES)
    trainer(plain, epochs=2).fit(BATCHES)
    assert not same(state(net), state(plain))
    bl.load(net, tmp_path / "best", optimizers=False)
    assert same(state(net), state(plain))
    assert len(list((tmp_path / "best").glob("step-*"))) == 1


def test_training_that_goes_on_keeps_on_comparing(tmp_path):
    first, second = network("mlp"), network("mlp")
    half = trainer(first, KeepBest(tmp_path / "best", score=scored), EarlyStopping(1, score=scored))
    half.fit(BATCHES)
    assert len(half.records) == 3
    bl.save(first, tmp_path / "kept", trainer=half)
    again = trainer(second, KeepBest(tmp_path / "best", score=scored), EarlyStopping(3, score=scored))
    again.prepare(BATCHES)
    bl.load(second, tmp_path / "kept", trainer=again)
    again.fit(BATCHES)
    assert len(again.records) == 5
    assert [path.name for path in (tmp_path / "best").glob("step-*")] == ["step-00000006"]


def test_without_validation_there_is_no_best_epoch(tmp_path):
    for callback in (EarlyStopping(1), KeepBest(tmp_path / "best")):
        with pytest.raises(InputError, match="validation"):
            trainer(network("mlp"), callback).fit(BATCHES)
    for flag in (("--keep", "best"), ("--patience", 1)):
        said = train(tmp_path, *flag, validation=0)
        assert said.status == 2
        assert flag[0] in said.text
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("patience", [0, -1, 1.5, True])
def test_patience_is_a_count(patience):
    with pytest.raises(InputError, match="patience"):
        EarlyStopping(patience)


def best_of(run):
    """The best epoch of a run, from 1, as its metrics say."""
    return best_epoch([line for line in metrics(run) if line["event"] == "epoch"]) + 1


SOON = {"lr": 0.5, "epochs": 6, "patience": 1, "keep": "best"}  # at this rate accuracy goes up and down


def test_a_run_keeps_its_best_epoch_evaluates_loads_and_resumes_it(tmp_path):
    config = tiny(**SOON)
    run, other = whole(config, tmp_path / "whole"), tmp_path / "two"
    result, epochs = summary(run), sum(line["event"] == "epoch" for line in metrics(run))
    assert result["kept_epoch"] == best_of(run)
    assert epochs == best_of(run) + 1 < 6
    assert result["stopped"] == f"no epoch was better than epoch {best_of(run)} for 1 epochs"
    said = cli("evaluate", run, "--split", "validation", "--json", tmp_path / "figures.json")
    assert said.status == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["block_top1"] == metrics(run)[best_of(run) - 1]["validation_top1"]
    with stopping(3 * best_of(run) + 2):
        start_run(config, other, quiet=True)
    resume_run(other, quiet=True)
    assert_same_run(run, other)
    assert same(state(bl.load(run)), state(bl.load(other)))


def test_a_streamed_run_keeps_its_best_epoch_too(tmp_path):
    train(tmp_path / "one", **SOON)
    assert train(tmp_path / "two", "--visit", 2, **SOON).status == 0
    one, two = tmp_path / "one" / "run", tmp_path / "two" / "run"
    assert summary(one)["test_nll"] == summary(two)["test_nll"]
    assert same(state(bl.load(one)), state(bl.load(two)))


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("--visit", 2)])
def test_several_processes_stop_at_the_same_epoch_and_keep_the_same(tmp_path, more):
    train(tmp_path / "one", **SOON)
    assert train(tmp_path / "two", "--processes", 2, *more, **SOON).status == 0
    one, two = tmp_path / "one" / "run", tmp_path / "two" / "run"
    assert_same_run(one, two)
    assert summary(one)["kept_epoch"] == summary(two)["kept_epoch"]
    assert same(state(bl.load(one)), state(bl.load(two)))
    assert len(list((two / BEST).glob("step-*"))) == 1


def test_load_says_what_it_takes(tmp_path):
    with pytest.raises(InputError, match="a run's folder, or a network"):
        bl.load(network("mlp"))
    with pytest.raises(InputError, match="by its folder alone"):
        bl.load(tmp_path, tmp_path)
