"""`evaluate --coverage --abstain`: what sets, intervals and abstention come to on the test split, counted by hand."""

import json
from dataclasses import replace

import pytest
import torch
from run_helpers import calibrated

from blocklocal._common.errors import InputError
from blocklocal.cli.main import main
from blocklocal.exits.sureness_evaluation import evaluate_sureness
from blocklocal.runs.exits import kept_exits, kept_sureness
from blocklocal.runs.looking import load_network
from blocklocal.runs.sets import evaluation_batches, load_data
from blocklocal.uncertainty.intervals import ConformalIntervals


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return calibrated(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def asked(run):
    """The network, its test batches, and what it says of them with the temperatures of the run."""
    config, facts, network = load_network(run, None, "cpu")
    batches = list(evaluation_batches(config, load_data(config, run).test, facts, torch.device("cpu")))

    def predict(x):
        return network.predict(x, temperatures=kept_exits(run).temperatures)

    return network, batches, predict


def counted(run, asked, coverage: float, risk: float):
    """(percent inside, mean classes, percent answered, percent of these wrong), sample by sample."""
    _, batches, predict = asked
    sets, least = kept_sureness(run).sets_of(coverage), kept_sureness(run).answers_from(risk)
    inside, size, answered, wrong = [], [], [], []
    for x, y in batches:
        for p, true in zip(predict(x).probabilities, y.tolist(), strict=True):
            held = [c for c, each in enumerate(p.tolist()) if 1 - each <= sets.limits.item()]
            inside.append(true in held)
            size.append(len(held))
            answered.append(p.max().item() >= least)
            wrong.append(answered[-1] and p.argmax().item() != true)
    count = len(inside)
    return 100 * sum(inside) / count, sum(size) / count, 100 * sum(answered) / count, 100 * sum(wrong) / sum(answered)


def test_the_command_says_what_came_of_sets_and_of_abstention(run, asked, tmp_path, capsys):
    inside, size, answered, wrong = counted(run, asked, 0.9, 0.2)
    file = tmp_path / "found.json"
    assert main(["evaluate", str(run), "--coverage", "0.9", "--abstain", "0.2", "--json", str(file)]) == 0
    said = capsys.readouterr().out
    assert f"--coverage 0.9: {inside:.2f} % of 200 sets hold the true class; a set has {size:.2f} classes" in said
    assert f"--abstain 0.2: answers {answered:.2f} % of 200, {wrong:.2f} % of them wrong" in said
    found = json.loads(file.read_text())
    sure = found["sureness"]
    none = sum(not row.any() for x, _ in asked[1] for row in kept_sureness(run).sets_of(0.9)(asked[2](x).probabilities))
    assert sure["empty"] == pytest.approx(100 * none / 200)
    assert ("have none" in said) == (none > 0)
    assert (sure["samples"], sure["coverage"], sure["abstain"], found["calibrated"]) == (200, 0.9, 0.2, True)
    assert sure["inside"] == pytest.approx([inside])
    assert sure["size"] == pytest.approx([size])
    assert (sure["answered"], sure["wrong"]) == pytest.approx((answered, wrong))
    assert main(["evaluate", str(run), "--calibrated", "--json", str(file)]) == 0
    assert found["nll"] == json.loads(file.read_text())["nll"]  # it is measured with the temperatures


def test_one_block_at_a_time_says_the_same(run, tmp_path):
    told = []
    for k, visit in enumerate(([], ["--visit", "2"])):
        file = tmp_path / f"{k}.json"
        assert main(["evaluate", str(run), "--coverage", "0.9", "--abstain", "0.2", "--json", str(file), *visit]) == 0
        told.append(json.loads(file.read_text())["sureness"])
    assert told[0] == told[1]


def test_what_was_fitted_on_the_same_samples_is_said(run, capsys):
    for split, said in (("validation", True), ("test", False)):
        assert main(["evaluate", str(run), "--coverage", "0.8", "--split", split]) == 0
        assert ("fitted on these validation samples" in capsys.readouterr().out) == said


def test_what_is_not_asked_for_is_not_said(run, capsys):
    assert main(["evaluate", str(run), "--coverage", "0.8"]) == 0
    said = capsys.readouterr().out
    assert "--coverage 0.8: " in said
    assert "--abstain" not in said


@pytest.mark.parametrize("command", ["evaluate", "predict"])
def test_no_number_is_no_coverage(run, tmp_path, capsys, command):
    given = [str(run)] if command == "evaluate" else [str(run), str(tmp_path)]
    assert main([command, *given, "--coverage", "nan"]) == 2
    assert "0.50, 0.51, … or 0.99, not nan" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--coverage", "--abstain"])
def test_early_exit_does_not_go_with_it(run, capsys, flag):
    assert main(["evaluate", str(run), flag, "0.5", "--budget", "0.9"]) == 2
    assert f"{flag} asks the output" in capsys.readouterr().err


def test_a_run_that_is_not_calibrated_says_how(run, tmp_path, capsys):
    (run / "exits.json").rename(tmp_path / "exits.json")
    try:
        assert main(["evaluate", str(run), "--coverage", "0.9"]) == 2
    finally:
        (tmp_path / "exits.json").rename(run / "exits.json")
    assert f"blocklocal calibrate {run} does it" in capsys.readouterr().err


def test_samples_without_a_class_do_not_count(run, asked):
    network, batches, _ = asked
    sets, fitted = kept_sureness(run).sets_of(0.9), kept_exits(run).temperatures
    x, y = batches[0]
    hidden = y.clone()
    hidden[::2] = -100
    found = evaluate_sureness(network, [(x, hidden)], fitted, sets=sets, answers_from=0.5)
    assert found == evaluate_sureness(network, [(x[1::2], y[1::2])], fitted, sets=sets, answers_from=0.5)
    with pytest.raises(InputError, match="of no sample is the class known"):
        evaluate_sureness(network, [(x, torch.full_like(y, -100))], fitted, sets=sets)


def test_where_nothing_is_answered_nothing_is_wrong(asked):
    network, batches, _ = asked
    found = evaluate_sureness(network, batches, None, answers_from=1.1)
    assert (found.answered, found.wrong, found.inside, found.size) == (0, None, None, None)


def test_a_network_is_left_in_its_mode(asked):
    network, batches, _ = asked
    network.train()
    try:
        evaluate_sureness(network, batches[:1], None, answers_from=0.5)
        assert network.training
    finally:
        network.eval()


def test_values_that_are_not_known_do_not_count():
    import blocklocal as bl

    x, nan = torch.randn(4, 3), torch.nan
    model = bl.build_model("mlp", classes=2, input_shape=(3,), width=8)
    network = bl.BlockLocal(bl.split(model, blocks=2), values=bl.Values.of(torch.randn(20, 2)))
    network.eval()
    said = network.predict(x).values
    off = torch.tensor([[0.5, 9.0], [nan, 0.0], [3.0, nan], [-0.5, nan]])
    interval = ConformalIntervals(0.9, torch.tensor([1.0, 2.0]))
    found = evaluate_sureness(network, [(x, said + off)], None, interval=interval)
    assert found.samples == 2
    assert found.inside == pytest.approx([100 * 2 / 3, 50])
    assert found.size == pytest.approx([2.0, 4.0])
    with pytest.raises(InputError, match="a value is not known in any sample"):
        evaluate_sureness(network, [(x[2:], (said + off)[2:])], None, interval=interval)


def test_when_a_sample_leaves_is_said(run, capsys):
    assert main(["evaluate", str(run), "--budget", "0.9"]) == 0
    setting = kept_exits(run).for_budget(0.9).setting
    assert capsys.readouterr().out.splitlines()[0] == f"leaves where: {setting.describe(3)}"
    known = replace(setting, by="agreement", first=1, threshold=0.5)
    assert known.describe(3) == "two blocks agree (at least 0.500), from block 2 on"
    assert replace(setting, first=2).describe(3) == "nobody leaves"
