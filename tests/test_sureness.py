"""Sets and abstention of a run. Oracles: the pure functions of `uncertainty` on the same validation data."""

import csv
import json

import pytest
import torch
from run_helpers import calibrated

from blocklocal.cli.main import main
from blocklocal.exits.sureness import RISKS, fit_sureness
from blocklocal.runs.exits import kept_exits, kept_sureness
from blocklocal.runs.looking import load_network
from blocklocal.runs.sets import evaluation_batches, load_data, normalise
from blocklocal.uncertainty.conformal import conformal_sets
from blocklocal.uncertainty.selective import abstain_at, aurc


@pytest.fixture(scope="module", params=["block-local", "backprop"])
def run(request, tmp_path_factory):
    return calibrated(tmp_path_factory.mktemp("runs") / "run", rule=request.param)


@pytest.fixture(scope="module")
def held(run):
    """(probabilities, classes) of the validation part, at the output's temperature."""
    config, facts, network = load_network(run, None, "cpu")
    batches = list(evaluation_batches(config, load_data(config, run).validation, facts, torch.device("cpu")))
    temperatures = kept_exits(run).temperatures
    p = torch.cat([network.predict(x, temperatures=temperatures).probabilities for x, _ in batches])
    return p, torch.cat([y for _, y in batches])


def test_what_is_kept_is_what_the_functions_say(run, held):
    (p, y), found = held, kept_sureness(run)
    sure, right = p.amax(1), p.argmax(1) == y
    assert found.aurc == pytest.approx(aurc(sure, right), abs=1e-6)
    for coverage in (0.5, 0.9, 0.95):
        assert found.sets_of(coverage).limits.item() == pytest.approx(
            conformal_sets(p, y, coverage).limits.item(), abs=1e-6
        )
    for risk, threshold, share in zip(RISKS, found.thresholds, found.answered, strict=True):
        best = abstain_at(sure, right, risk)
        assert share == pytest.approx(best.coverage, abs=0.01)
        assert threshold == (None if best.coverage == 0 else pytest.approx(best.threshold, abs=1e-4))


def image(folder, k: int):
    from PIL import Image

    pixels = torch.randint(0, 255, (8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(k))
    Image.fromarray(pixels.numpy()).save(folder / f"{k}.png")
    return pixels


def test_predict_names_the_classes_of_the_set_and_what_is_not_sure_enough(run, tmp_path, capsys):
    pixels = torch.stack([image(tmp_path, k) for k in range(5)]).unsqueeze(1)
    files = [str(tmp_path / f"{k}.png") for k in range(5)]
    asked = ["predict", str(run), *files, "--coverage", "0.9", "--abstain", "0.2"]
    _, facts, network = load_network(run, None, "cpu")
    p = network.predict(normalise(pixels, facts), temperatures=kept_exits(run).temperatures).probabilities
    sets = kept_sureness(run).sets_of(0.9)(p)
    names = [[name for name, inside in zip(facts.classes, row, strict=True) if inside] for row in sets.tolist()]
    enough = (p.amax(1) >= kept_sureness(run).answers_from(0.2)).tolist()
    assert main([*asked, "--output", str(tmp_path / "out.json")]) == 0
    told = json.loads((tmp_path / "out.json").read_text())["predictions"]
    assert [each["set"] for each in told] == names
    assert [each["sure enough"] for each in told] == enough
    assert main([*asked, "--output", str(tmp_path / "out.csv")]) == 0
    with (tmp_path / "out.csv").open(newline="") as file:
        assert [row["set"] for row in csv.DictReader(file)] == [" | ".join(each) for each in names]
    capsys.readouterr()
    assert main(asked) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if not line.startswith(" ")]
    assert ["not sure enough" not in line for line in lines] == enough
    assert all(f"set: {', '.join(each) or 'empty'}" in line for line, each in zip(lines, names, strict=True))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--coverage", "0.3"], "0.50, 0.51, … or 0.99, not 0.3"),
        (["--coverage", "0"], "0.50, 0.51, … or 0.99, not 0"),
        (["--abstain", "0.03"], "takes a risk of 0.001, 0.002"),
        (["--abstain", "0"], "takes a risk of"),
    ],
)
def test_what_is_not_kept_is_refused(run, tmp_path, capsys, flags, words):
    image(tmp_path, 0)
    assert main(["predict", str(run), str(tmp_path / "0.png"), *flags]) == 2
    assert words in capsys.readouterr().err


def test_early_exit_does_not_ask_the_output(run, tmp_path, capsys):
    if len(kept_exits(run).own) == 1:  # backprop trains one learner
        assert main(["evaluate", str(run), "--budget", "0.9"]) == 2
        assert "no block but the last predicts here" in capsys.readouterr().err
        return
    image(tmp_path, 0)
    for flag in ("--coverage", "--abstain"):
        assert main(["predict", str(run), str(tmp_path / "0.png"), flag, "0.5", "--budget", "0.9"]) == 2
        assert f"{flag} asks the output" in capsys.readouterr().err


def test_too_few_samples_show_no_small_risk():
    from blocklocal._common.errors import InputError

    sure = torch.linspace(0.5, 1, 9)
    found = fit_sureness(sure, sure, torch.ones(9, dtype=torch.bool))
    with pytest.raises(InputError, match="no confidence shows on 9 validation samples"):
        found.answers_from(0.001)
    with pytest.raises(InputError, match=r"9 validation samples are too few .* at least 19"):
        found.sets_of(0.95)


def test_a_class_that_is_nearly_impossible_is_in_where_the_coverage_needs_it():
    truth = torch.cat([torch.full((97,), 0.9), torch.full((3,), 1e-9)])
    found = fit_sureness(truth, truth, truth > 0.5).sets_of(0.98)
    assert bool(found(torch.tensor([[1 - 1e-9, 1e-9]]))[0, 1])


def test_exits_of_an_older_version_are_told(run, monkeypatch):
    from dataclasses import replace

    from blocklocal._common.errors import InputError
    from blocklocal.report.exits_section import exits_section
    from blocklocal.runs import exits as runs_exits

    older = replace(kept_exits(run), sureness=None, reliability=[], risks={})
    monkeypatch.setattr(runs_exits, "kept_exits", lambda *_: older)
    with pytest.raises(InputError, match="calibrated by an older version"):
        runs_exits.kept_sureness(run)
    whole = (run / "exits.json").read_text()
    told = json.loads(whole)
    try:
        for each in [setting for way in told["exits"]["settings"] for setting in way]:
            del each["left"]
        for name in ("sureness", "reliability", "risks"):
            del told["exits"][name]
        (run / "exits.json").write_text(json.dumps(told))
        section = exits_section(run)
        assert all(len(row) == len(section["headings"]) for row in section["rows"])
    finally:
        (run / "exits.json").write_text(whole)


def test_figures_that_are_missing_are_told(run):
    from dataclasses import replace

    from blocklocal._common.errors import InputError

    for name in ("sets", "thresholds", "answered"):
        with pytest.raises(InputError, match="these exits are damaged"):
            replace(kept_sureness(run), **{name: [0.5]})


def test_the_command_says_what_it_comes_to(run, capsys):
    assert main(["calibrate", str(run)]) == 0
    said = capsys.readouterr().out
    assert f"(AURC) {kept_sureness(run).aurc:.5f}" in said
    assert "--abstain 0.05: " in said
    assert ("--budget 0.75" in said) == (len(kept_exits(run).own) > 1)
