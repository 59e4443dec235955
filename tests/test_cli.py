"""Oracle: the run folder and the library's own functions. The commands say what these say."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from run_helpers import cli, flags, summary

from blocklocal import __version__
from blocklocal.cli.arguments import RENAMED, TrainArguments, parse_with_base
from blocklocal.cli.folder import default_folder
from blocklocal.cli.main import COMMANDS
from blocklocal.data import load_images
from blocklocal.parallel.launch import Launch
from blocklocal.runs.config import Config
from blocklocal.runs.looking import load_network
from blocklocal.runs.predict import open_pixels
from blocklocal.runs.recipes import RECIPES, get_recipe
from blocklocal.runs.sets import evaluation_batches, load_data

FLAGS = (
    "--data --train-size --model --width --rule --objective --family --scope --readout --reconstruction --blocks "
    "--epochs --seed --device --threads --output --resume"
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "run"
    said = cli("train", *flags(), "--output", folder)
    assert said.status == 0
    (folder.parent / "said.txt").write_text(said.out)
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three of the digits as PNG files."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("pictures")
    pixels = load_images("digits").test.pixels[:3, 0]
    for i, each in enumerate(pixels):
        Image.fromarray(each.numpy()).save(folder / f"{i}.png")
    return sorted(folder.iterdir())


# --- help


@pytest.mark.parametrize("command", ["train", "compare"])
def test_help_names_every_flag_of_a_training(command):
    said = cli(command, "--help")
    assert said.status == 0
    assert said.err == ""
    for flag in FLAGS.split():
        assert re.search(rf"{flag}\b", said.out), flag


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_help(command):
    said = cli(command, "--help")
    assert said.status == 0
    assert len(said.out) > 100
    assert "Traceback" not in said.err


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",), ("help",)])
def test_the_help_of_the_whole_lists_every_command(arguments):
    said = cli(*arguments)
    assert said.status == 0
    assert all(re.search(rf"^ +{command} +\S", said.out, re.MULTILINE) for command in COMMANDS)


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_the_version_is_the_package_s(flag):
    said = cli(flag)
    assert (said.status, said.out) == (0, f"blocklocal {__version__}\n")


def test_the_package_is_a_command_of_python():
    command = [sys.executable, "-m", "blocklocal"]
    done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"blocklocal {__version__}\n"
    done = subprocess.run([*command, "trian"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "Did you mean 'train'" in done.stderr
    assert "Traceback" not in done.stderr


# --- train


def test_train_prints_epochs_accuracies_and_where_the_report_is(run):
    said = (run.parent / "said.txt").read_text()
    assert "epoch 1/2" in said
    assert "epoch 2/2" in said
    assert f"test accuracy {summary(run)['test_top1']:.2f} %" in said
    assert f"report: {run / 'report.html'}" in said
    assert (run / "report.html").exists()


def test_quiet_trains_without_progress(tmp_path):
    said = cli("train", *flags(epochs=1), "--output", tmp_path / "run", "--quiet")
    assert [line.partition(" ")[0] for line in said.out.splitlines()] == ["test", "report:"]


def test_without_output_a_new_folder_below_runs_is_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert cli("train", *flags(epochs=1, rule="frozen"), "--quiet").status == 0
    names = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert names == ["digits-mlp-frozen-seed0", "digits-mlp-frozen-seed0-2"]


def test_flags_change_a_recipe_and_a_saved_configuration(tmp_path):
    small = ("--epochs", 1, "--train-size", 40, "--threads", 1, "--width", 4, "--no-tensorboard", "--quiet")
    assert cli("train", "--recipe", "quickstart", *small, "--output", tmp_path / "a").status == 0
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    assert (config["batch_size"], config["width"]) == (get_recipe("quickstart").data.batch_size, 4)
    assert cli("train", "--config", tmp_path / "a", "--seed", 5, "--quiet", "--output", tmp_path / "b").status == 0
    assert json.loads((tmp_path / "b" / "config.json").read_text()) == {**config, "seed": 5}


# --- evaluate


def test_evaluate_gives_the_figures_of_the_summary(run, tmp_path):
    said = cli("evaluate", run, "--json", tmp_path / "figures.json")
    assert said.status == 0
    figures, row = json.loads((tmp_path / "figures.json").read_text()), summary(run)
    for key in ("top1", "top3", "nll", "ece"):
        assert figures[key] == row[f"test_{key}"]
    assert figures["block_top1"] == row["block_test_top1"]
    assert f"test: top-1 {row['test_top1']:.2f} %  top-3 {row['test_top3']:.2f} %" in said.out
    for name, accuracy in zip(row["block_names"], row["block_test_top1"], strict=True):
        assert re.search(rf"^{name} +{accuracy:.2f} %$", said.out, re.MULTILINE)
    assert figures["combined_top1"] == row["combined_test_top1"]
    assert re.search(rf"^ensemble +{row['combined_test_top1']:.2f} %$", said.out, re.MULTILINE)


def test_the_figure_of_the_ensemble_counts_what_its_prediction_gets_right(run):
    config, facts, network = load_network(run)
    right = total = 0
    for x, y in evaluation_batches(config, load_data(config).test, facts, torch.device("cpu")):
        right, total = right + (network.predict(x).combined.label == y).sum().item(), total + len(y)
    assert summary(run)["combined_test_top1"] == pytest.approx(100 * right / total)


def test_the_ensemble_has_one_name_everywhere(run, pictures):
    said = (run.parent / "said.txt").read_text()
    for text in (said, cli("evaluate", run).out, cli("predict", run, *pictures).out, (run / "report.html").read_text()):
        assert "ensemble" in text
        assert not re.search("all (blocks )?together", text, re.IGNORECASE)


def test_evaluate_measures_the_validation_and_training_splits(run, tmp_path):
    for split, key in (("validation", "validation_top1"), ("train", None)):
        cli("evaluate", run, "--split", split, "--json", tmp_path / "figures.json")
        figures = json.loads((tmp_path / "figures.json").read_text())
        assert figures["split"] == split
        if key:
            assert figures["top1"] == summary(run)[key]


def test_evaluate_takes_an_older_checkpoint(run, tmp_path):
    older, newest = (cli("evaluate", run, "--checkpoint", f"step-0000000{step}") for step in (3, 6))
    assert older.status == newest.status == 0
    assert older.out != newest.out == cli("evaluate", run).out


def test_evaluate_leaves_the_run_as_it_is(run):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    cli("evaluate", run)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


# --- predict


def test_predict_prints_class_and_confidence_of_the_output_and_of_each_block(run, pictures):
    said = cli("predict", run, *pictures)
    assert said.status == 0
    lines = said.out.splitlines()
    assert len(lines) == len(pictures) * 4
    _, facts, network = load_network(run)
    pixels = torch.stack([open_pixels(path, facts, resize=False) for path in pictures])
    mean, std = torch.tensor(facts.mean).view(-1, 1, 1), torch.tensor(facts.std).view(-1, 1, 1)
    prediction = network.predict((pixels.float() / 255 - mean) / std)
    for i, path in enumerate(pictures):
        own = lines[4 * i : 4 * i + 4]
        for line, each in zip(own, (prediction, *prediction.blocks, prediction.combined), strict=True):
            assert line.endswith(f"{each.label[i].item()}  {100 * each.confidence[i].item():.1f} %")
        assert own[0].startswith(f"{path}: ")
        assert [line.split()[0] for line in own[1:3]] == summary(run)["block_names"]
        assert own[3].startswith("    ensemble ")


def test_the_pixels_of_a_picture_are_those_of_the_data_set(run, pictures):
    _, facts, _ = load_network(run)
    assert torch.equal(open_pixels(pictures[0], facts, resize=False), load_images("digits").test.pixels[0])


def test_predict_turns_a_picture_upright_as_training_does(run, pictures, tmp_path):
    from PIL import Image

    _, facts, _ = load_network(run)
    with Image.open(pictures[0]) as image:
        exif = Image.Exif()
        exif[0x0112] = 3  # to be shown upside down
        image.rotate(180).save(tmp_path / "turned.png", exif=exif)
    turned, upright = (open_pixels(path, facts, resize=False) for path in (tmp_path / "turned.png", pictures[0]))
    assert torch.equal(turned, upright)


def test_predict_resizes_where_it_is_asked_to(run, pictures, tmp_path):
    from PIL import Image

    with Image.open(pictures[0]) as image:
        image.convert("RGB").resize((20, 16)).save(tmp_path / "large.png")
    assert cli("predict", run, tmp_path / "large.png", "--resize").status == 0


# --- report and recipes


def test_report_writes_the_page_again(run, tmp_path):
    before = (run / "report.html").read_text()
    (run / "report.html").unlink()
    said = cli("report", run)
    assert (said.status, said.out.strip()) == (0, str(run / "report.html"))
    assert len((run / "report.html").read_text()) == pytest.approx(len(before), rel=0.1)


def test_recipes_are_listed_and_printed_as_a_configuration(tmp_path):
    said = cli("recipes")
    assert said.status == 0
    assert all(name in said.out for name in RECIPES.names())
    (tmp_path / "config.json").write_text(cli("recipes", "quickstart").out)
    from blocklocal.runs.config import load_config

    assert load_config(tmp_path) == get_recipe("quickstart")


def test_the_folder_of_a_model_of_the_users_own_is_named_after_its_function():
    config = Config().edit(model="some/where/nets.py:small", data="/data/photos", seed=3)
    assert default_folder(config, "block-local") == Path("runs/photos-nets.py-small-block-local-seed3")


@pytest.mark.parametrize(("old", "now"), RENAMED.items())
@pytest.mark.parametrize("join", [(lambda flag: [flag, "7"]), (lambda flag: [f"{flag}=7"])], ids=["apart", "with ="])
def test_an_older_flag_means_what_its_present_name_means(old, now, join):
    found = [parse_with_base(TrainArguments, join(flag), "blocklocal train").launch for flag in (old, now)]
    assert found[0] == found[1] != Launch()


@pytest.mark.parametrize("old", RENAMED)
def test_an_older_flag_of_train_is_refused_elsewhere_as_it_was_typed(old, tmp_path):
    for command in (["compare"], ["diagnose", tmp_path]):
        said = cli(*command, old, 7)
        assert said.status == 2
        assert f"Unrecognized options: {old}, 7" in said.text
        assert RENAMED[old] not in said.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "--width", 0), "--width must be a whole number of at least 1, not 0."),
        (("train", "--max-in-flight", 0), "--max-in-flight must be a whole number of at least 1, not 0."),
        (
            ("compare", "--order", "secnd"),
            "unknown order 'secnd'. Did you mean 'second'? Known: auto, exact, first, second.",
        ),
        (("diagnose", "x", "--images", 0), "--images must be a whole number of at least 1, not 0."),
        (("train", "--shard"), "--shard divides blocks among replicas: give --replicas of 2 or more with it."),
    ],
)
def test_a_setting_that_is_refused_is_named_as_the_user_gave_it_and_nothing_else_is(arguments, message):
    said = cli(*arguments)
    assert (said.status, said.out, said.err) == (2, "", f"error: {message}\n")


def test_a_value_that_is_no_number_is_refused_with_its_flag():
    said = cli("train", "--lr", "abc")
    assert said.status == 2
    assert "Error parsing --lr: could not convert string to float: 'abc'" in said.text
    assert "settings" not in said.text


TWICE = [["--freeze", "a", "--freeze=b"], ["--target", "a", "--target", "b"], ["--model-options", "a", "1"] * 2]


@pytest.mark.parametrize("twice", TWICE)
def test_a_flag_of_several_values_that_is_given_twice_is_refused_and_not_counted_once(twice):
    said = cli("train", *twice)
    assert said.status == 2
    assert f"{twice[0]} is given twice: give it once, with all its values behind it." in said.text
