"""`blocklocal diagnose` on tiny runs. Oracles: `evaluate`, the files of the run, images that must not count."""

import json
from dataclasses import replace

import pytest
import torch
from run_helpers import StopAfter, assert_refused, cli, tiny, whole, without_reports

from blocklocal._common.errors import InputError, Interrupted
from blocklocal.data import Images
from blocklocal.data.answers import UNKNOWN
from blocklocal.diagnose import diagnose_run
from blocklocal.diagnose.run import choose_images
from blocklocal.diagnose.table import lines
from blocklocal.families import FAMILIES
from blocklocal.runs import train as training_run
from blocklocal.runs.run import start_run
from blocklocal.runs.sets import load_data

CUT = {"model": "resnet20", "width": 4, "blocks": 3, "epochs": 1}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A block-local run of maps and, beside it as `compare` leaves them, backprop's and one of greedy learning."""
    folder = tmp_path_factory.mktemp("runs")
    with without_reports():
        for rule in ("block-local", "backprop", "greedy"):
            whole(tiny(**CUT, rule=rule), folder / f"{rule}-seed0")
    return folder


@pytest.fixture(scope="module")
def said(runs):
    return cli("diagnose", runs / "block-local-seed0")


def written(run):
    return json.loads((run / "diagnosis.json").read_text())


def test_the_table_the_file_and_the_picture_tell_the_same(runs, said):
    run = runs / "block-local-seed0"
    assert said.status == 0, said.text
    found = written(run)
    assert [block["name"] for block in found["blocks"]] == [
        "stage1.0–stage1.2",
        "stage2.0–stage2.2",
        "stage3.0–stage3.2",
    ]
    for k, block in enumerate(found["blocks"], 1):
        line = next(line for line in said.out.splitlines() if line.startswith(f"{k} "))
        assert f"{block['explained']:.1f}" in line
        assert f"{block['cosine']:.2f}" in line
    assert all(f"- {hint}" in said.out for hint in found["hints"])
    assert (run / "diagnosis.png").read_bytes().startswith(b"\x89PNG")
    assert str(run / "diagnosis.png") in said.out


def test_the_backprop_run_in_the_same_folder_is_found(runs, said):
    found = written(runs / "block-local-seed0")
    assert found["against"] == str(runs / "backprop-seed0")
    assert found["against_rule"] == "backprop"
    added = 0.0
    for block in found["blocks"]:
        assert block["gap"] == pytest.approx(block["against_probe"] - block["probe"])
        added += block["added"]
        assert added == pytest.approx(block["gap"])


def test_a_blocks_own_accuracy_is_that_of_evaluate(runs, said, tmp_path):
    run = runs / "block-local-seed0"
    cli("evaluate", run, "--split", "validation", "--json", tmp_path / "there.json")
    wanted = json.loads((tmp_path / "there.json").read_text())["block_top1"]
    assert [block["own"] for block in written(run)["blocks"]] == pytest.approx(wanted)


def test_message_sizes_are_those_of_the_last_epoch(runs, said):
    run = runs / "block-local-seed0"
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert [block["message"] for block in written(run)["blocks"]] == pytest.approx(last["message"])


def test_a_diagnosis_leaves_the_run_as_it_was_and_comes_out_the_same_again(runs, said):
    run = runs / "block-local-seed0"

    def files():
        return {path: path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}

    before = files()
    assert "diagnosis.json" in {path.name for path in before}
    assert cli("diagnose", run).status == 0
    assert files() == before


def test_any_other_rule_can_be_held_against(runs):
    found = diagnose_run(runs / "block-local-seed0", against=runs / "greedy-seed0")
    assert found.against_rule == "greedy"
    assert found.blocks[0].against_probe is not None
    assert any("greedy" in line for line in lines(found))


def test_against_itself_there_is_no_gap_and_the_same_image_is_left(runs):
    found = diagnose_run(runs / "greedy-seed0", against=runs / "greedy-seed0")
    assert [block.gap for block in found.blocks] == [0.0] * 3
    assert [block.explained for block in found.blocks] == [block.against_explained for block in found.blocks]


def test_backprop_itself_is_diagnosed_by_the_blocks_of_the_cut(runs):
    found = diagnose_run(runs / "backprop-seed0")
    assert found.against is None
    assert len(found.blocks) == 3
    assert [block.cosine for block in found.blocks] == pytest.approx([1.0] * 3)
    assert [block.own is None for block in found.blocks] == [True, True, False]
    assert [block.message for block in found.blocks] == [None] * 3


# --- which images


def poisoned(data, **changes):
    """The data set with a split that no one may look at."""

    class Forbidden:
        def __getattr__(self, name):
            raise AssertionError(f"{name} of the test images was looked at")

    return replace(data, test=Forbidden(), **changes)


@pytest.mark.parametrize("validation", [20, 0])
def test_the_test_images_are_never_looked_at(tmp_path, monkeypatch, validation):
    with without_reports():
        run = whole(tiny(validation=validation), tmp_path / "run")
    monkeypatch.setattr("blocklocal.diagnose.run.load_data", lambda config, run=None: poisoned(load_data(config)))
    found = diagnose_run(run)
    assert (found.fitted, found.scored, found.scored_on) == (
        (60, 20, "validation") if validation else (48, 12, "training")
    )


def test_scores_are_of_the_validation_images(tmp_path, monkeypatch):
    """With every validation label moved on by one, nothing else changes, and what was right is wrong."""
    with without_reports():
        run = whole(tiny(width=32, epochs=8), tmp_path / "run")
    before = diagnose_run(run)

    def moved(config, run=None):
        data = load_data(config)
        labels = (data.validation.labels + 1) % len(data.classes)
        return replace(data, validation=Images(data.validation.pixels, labels))

    monkeypatch.setattr("blocklocal.diagnose.run.load_data", moved)
    after = diagnose_run(run)
    assert before.blocks[0].probe > 60
    assert after.blocks[0].probe < 30
    assert [b.explained for b in after.blocks] == [b.explained for b in before.blocks]
    assert [b.cosine for b in after.blocks] == [b.cosine for b in before.blocks]


def test_images_bound_both_the_fit_and_the_score():
    data = load_data(tiny())
    pieces = choose_images(data, 10)
    assert (len(pieces.fit), len(pieces.held), pieces.split) == (10, 10, "validation")
    assert torch.equal(pieces.held.pixels, data.validation.pixels[:10])


def test_without_a_validation_split_no_image_both_fits_and_scores():
    data = load_data(tiny(validation=0))
    pieces = choose_images(data, 50)
    assert (len(pieces.fit), len(pieces.held), pieces.split) == (40, 10, "training")
    together = torch.cat([pieces.held.pixels, pieces.fit.pixels])
    assert torch.equal(together, data.train.pixels[:50])


def test_images_without_a_label_neither_fit_nor_score():
    data = load_data(tiny(labelled=0.3))
    known = (data.train.labels != UNKNOWN).nonzero().flatten()
    pieces = choose_images(data, 10)
    assert torch.equal(pieces.fit.pixels, data.train.pixels[known[:10]])
    assert bool((pieces.fit.labels != UNKNOWN).all())


# --- kinds of runs


@pytest.mark.parametrize("family", FAMILIES.names())
def test_every_family_can_be_diagnosed(tmp_path, family):
    with without_reports():
        run = whole(tiny(family=family, epochs=1, lr=0.01, width=8), tmp_path / "run")
    found = diagnose_run(run)
    assert all(0 <= block.probe <= 100 and block.explained <= 100 for block in found.blocks)
    assert found.blocks[-1].cosine == pytest.approx(1.0)


@pytest.mark.parametrize("rule", ["frozen", "target-projection", "direct-feedback-alignment", "feedback-alignment"])
def test_every_other_rule_can_be_diagnosed(tmp_path, rule):
    with without_reports():
        run = whole(tiny(rule=rule, epochs=1), tmp_path / "run")
    found = diagnose_run(run)
    assert (found.blocks[0].cosine is None) == (rule == "frozen")
    assert (found.blocks[0].message is None) == (rule in ("frozen", "feedback-alignment"))


def test_dropout_and_augmentation_and_parts(tmp_path):
    settings = {"model": "vgg8b", "model_options": {"dropout": "0.3"}, "image_size": 16, "augment": "crop,flip"}
    with without_reports():
        run = whole(tiny(**settings, blocks=3, epochs=1, readout=1, reconstruction=1.0), tmp_path / "run")
    found = diagnose_run(run)
    assert found.blocks[-1].cosine == pytest.approx(1.0)
    assert 0 < abs(found.blocks[0].cosine) < 1


def test_one_block(tmp_path):
    with without_reports():
        run = whole(tiny(blocks=1, epochs=1), tmp_path / "run")
    said = cli("diagnose", run)
    assert said.status == 0, said.text
    assert "one block" in said.text


def test_a_stopped_run_is_diagnosed_at_its_checkpoint(tmp_path, monkeypatch):
    run = tmp_path / "run"
    monkeypatch.setattr(training_run, "StopSignals", lambda: StopAfter(4))
    with pytest.raises(Interrupted):
        start_run(tiny(), run, quiet=True)
    assert not (run / "summary.json").exists()
    said = cli("diagnose", run)
    assert said.status == 0, said.text
    assert "step-00000004" in said.out
    assert (run / "diagnosis.png").exists()


def test_without_a_backprop_run_the_command_says_how_to_get_one(tmp_path):
    with without_reports():
        run = whole(tiny(epochs=1), tmp_path / "run")
        said = cli("diagnose", run)
        told = said.out.splitlines()[0].partition("blocklocal ")[2].split()
        assert told[0] == "train"
        assert "gap" not in said.out.splitlines()[7]
        assert cli(*told, "--quiet").status == 0
    assert "backprop" in cli("diagnose", run).out
    assert written(run)["against"] == str(tmp_path / "run-backprop")


# --- what is refused


def test_a_run_without_a_checkpoint_is_refused(tmp_path):
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    tiny().save(run / "config.json")
    data = load_data(tiny())
    facts = {"classes": data.classes, "channels": 1, "height": 8, "width": 8, "mean": data.mean, "std": data.std}
    (run / "data.json").write_text(json.dumps(facts))
    assert_refused(cli("diagnose", run), "holds no complete checkpoint")


def test_what_is_no_run_is_refused(tmp_path):
    assert_refused(cli("diagnose", tmp_path / "nothing"), "no run folder")


@pytest.mark.parametrize("flag", ["--images", "--batches"])
def test_numbers_that_make_no_sense_are_refused(runs, flag):
    assert_refused(cli("diagnose", runs / "greedy-seed0", flag, 0), "must be a whole number of at least 1")


def test_too_few_images_to_hold_some_out_are_refused():
    with pytest.raises(InputError, match=r"too few to hold some out.*--images 5"):
        choose_images(load_data(tiny(validation=0)), 4)


def test_another_data_set_in_the_old_place_is_refused(runs, monkeypatch):
    other = lambda config, run=None: load_data(config.edit(train_size=50))  # noqa: E731
    monkeypatch.setattr("blocklocal.diagnose.run.load_data", other)
    with pytest.raises(InputError, match="is not what the run"):
        diagnose_run(runs / "greedy-seed0")


def test_sequences_are_refused(tmp_path):
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def net(classes, channels, image_size):\n"
        "    return nn.Sequential(nn.Flatten(2), nn.Linear(64, 6), nn.ReLU(), nn.Flatten(), nn.Linear(6, classes))\n"
    )
    with without_reports():
        run = whole(tiny(model=f"{tmp_path / 'net.py'}:net", width=None, epochs=1), tmp_path / "run")
    assert_refused(cli("diagnose", run, "--trust"), "of shape [60, 1, 6]", "not made for sequences")
