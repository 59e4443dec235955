"""Oracle: the exit status and the message. Bad data, folders and files are refused with what was given and expected."""

import json
from pathlib import Path

import pytest
import torch
from data_files import CLASSES, labels, parquet_set, picture, png, replace_train
from run_helpers import assert_refused, cli, flags, metrics, summary, train

from blocklocal import BlockLocal
from blocklocal._common.errors import InputError
from blocklocal.splitting import split

DATA = {"validation": 2, "batch_size": 4, "train_size": 8, "test_size": 4, "epochs": 1}


@pytest.fixture(autouse=True)
def _wide_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")  # so that no message is broken in two


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the digits."""
    folder = tmp_path_factory.mktemp("run") / "run"
    assert cli("train", *flags(epochs=1), "--output", folder, "--quiet").status == 0
    return folder


# --- data


def test_data_that_is_not_there(tmp_path):
    said = train(tmp_path, data=tmp_path / "nowhere")
    assert_refused(said, f"no folder '{tmp_path}/nowhere'", "Give 'digits', a folder", folder=tmp_path)


def test_a_file_in_the_place_of_a_folder(tmp_path):
    (tmp_path / "train.parquet").write_bytes(b"")
    said = train(tmp_path, data=tmp_path / "train.parquet")
    assert_refused(said, "is a file", "Give the folder", folder=tmp_path)


def test_a_parquet_file_that_cannot_be_read(tmp_path):
    root = parquet_set(tmp_path / "data")
    (root / "train-00000-of-00001.parquet").write_bytes(b"PAR1 and then nothing")
    said = train(tmp_path, data=root)
    assert_refused(said, "train-00000-of-00001.parquet as parquet", "Download or write it again", folder=tmp_path)


def bad_image_set(root: Path) -> Path:
    images = [png(picture(i)) for i in range(12)]
    images[5] = b"this is no picture"
    return replace_train(parquet_set(root), images, labels(12))


def test_an_image_that_cannot_be_decoded_is_named(tmp_path):
    said = train(tmp_path, data=bad_image_set(tmp_path / "data"), **DATA)
    assert_refused(said, "train-00000-of-00001.parquet, row 5", "--skip-bad", folder=tmp_path)


def test_with_skip_bad_such_images_are_counted_and_left_out(tmp_path):
    settings = {**DATA, "train_size": 9}
    said = train(tmp_path, "--skip-bad", data=bad_image_set(tmp_path / "data"), **settings)
    assert said.status == 0, said.text
    row = summary(tmp_path / "run")
    assert (row["skipped"], row["train_size"], row["validation_size"]) == (1, 9, 2)


def test_a_label_outside_the_classes(tmp_path):
    root = replace_train(parquet_set(tmp_path / "data"), [png(picture(i)) for i in range(3)], [0, 1, 3])
    said = train(tmp_path, data=root)
    assert_refused(said, "row 2: the label is 3, but there are 3 classes", "from 0 to 2", folder=tmp_path)


def test_an_empty_list_of_classes(tmp_path):
    said = train(tmp_path, data=parquet_set(tmp_path / "data", names=()))
    assert_refused(said, "class", "empty", folder=tmp_path)


def test_more_training_images_than_there_are(tmp_path):
    assert_refused(train(tmp_path, train_size=5000), "train_size=5000", "at most", folder=tmp_path)


# --- models and data that do not fit


def test_a_model_that_needs_larger_images(tmp_path):
    said = train(tmp_path, model="vgg8b")
    assert_refused(said, "at least 16x16 pixels, not 8x8", "enlarge the images", folder=tmp_path)


def test_more_blocks_than_units(tmp_path):
    assert_refused(train(tmp_path, blocks=9), "9 blocks were asked for", "at most 4", folder=tmp_path)


def test_predicting_a_picture_of_another_size(run, tmp_path):
    picture(1, size=(9, 7)).save(tmp_path / "large.png")
    assert_refused(cli("predict", run, tmp_path / "large.png"), "large.png has 9x7 pixels", "takes 8x8", "--resize")


@pytest.mark.parametrize("content", [b"no picture", b"", png(picture(1))[:40]], ids=["text", "empty", "cut short"])
def test_predicting_what_is_no_picture(run, tmp_path, content):
    (tmp_path / "bad.png").write_bytes(content)
    assert_refused(cli("predict", run, tmp_path / "bad.png"), "bad.png cannot be decoded as an image")


def test_predicting_no_picture_or_one_that_is_not_there(run, tmp_path):
    assert_refused(cli("predict", run), "at least one image")
    assert_refused(cli("predict", run, tmp_path / "none.png"), f"there is no image {tmp_path}/none.png")


def test_evaluating_on_data_of_other_classes(run, tmp_path):
    said = cli("evaluate", run, "--data", parquet_set(tmp_path / "data"))
    assert_refused(said, f"has the classes {', '.join(CLASSES)}", "was trained on 0, 1, 2")


def test_evaluating_on_images_of_another_size_or_colour(tmp_path):
    small = parquet_set(tmp_path / "small")
    assert train(tmp_path, data=small, **{**DATA, "model": "mlp"}).status == 0
    for name, options in (("wide", {"size": (9, 5)}), ("colour", {"mode": "RGB"})):
        root = replace_train(parquet_set(tmp_path / name), [png(picture(i, **options)) for i in range(12)], labels(12))
        test = [png(picture(i, **options)) for i in range(6)]
        replace_train(tmp_path / "other", test, labels(6))
        (tmp_path / "other" / "train-00000-of-00001.parquet").rename(root / "test-00000-of-00001.parquet")
        said = cli("evaluate", tmp_path / "run", "--data", root)
        assert_refused(said, f"{name} has images of", "the run takes 1 channels and 5x6 pixels", "convert the images")


def test_targets_outside_the_classes_in_a_loop_of_one_s_own():
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3))
    network = BlockLocal(split(model, blocks=2), classes=3, example=torch.zeros(2, 4))
    with pytest.raises(InputError, match="target 3 is outside the classes 0 … 2"):
        network.step(torch.zeros(2, 4), torch.tensor([0, 3]))


# --- devices, configurations, folders


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_cuda_where_there_is_none(tmp_path, device):
    assert_refused(train(tmp_path, device=device), "no CUDA device", "--device cpu or auto", folder=tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{nothing", "is not valid JSON"),
        ('{"epoch": 1}', "unknown setting 'epoch'. Did you mean 'epochs'?"),
        ('{"epochs": "three"}', 'epochs must be a whole number, not "three"'),
    ],
)
@pytest.mark.parametrize("command", ["train", "compare"])
def test_a_configuration_that_is_none(tmp_path, command, text, words):
    (tmp_path / "config.json").write_text(text)
    said = cli(command, "--config", tmp_path / "config.json", "--output", tmp_path / "run")
    assert_refused(said, "config.json", words, folder=tmp_path)


def test_a_recipe_and_a_configuration_at_once(tmp_path):
    assert_refused(train(tmp_path, "--config", "x", recipe="quickstart"), "not both", folder=tmp_path)


def test_a_checkpoint_without_a_run_to_resume(tmp_path):
    assert_refused(train(tmp_path, "--checkpoint", "step-00000003"), "give --resume RUN with them", folder=tmp_path)


@pytest.mark.parametrize("arguments", [("--list",), ("quickstart", "cifar-trial")])
def test_recipes_takes_one_name(arguments):
    assert_refused(cli("recipes", *arguments), "takes one name")


@pytest.mark.parametrize("command", ["evaluate", "predict", "report"])
def test_a_folder_that_is_no_run(tmp_path, command):
    for folder in (tmp_path, tmp_path / "nowhere"):
        assert_refused(cli(command, folder, *(["x.png"] if command == "predict" else [])), str(folder))


@pytest.mark.parametrize("name", ["config.json", "data.json"])
@pytest.mark.parametrize("content", ["{", "[1, 2]"])
def test_a_run_whose_description_is_damaged(run, tmp_path, name, content):
    for file in ("config.json", "data.json"):
        (tmp_path / file).write_text((run / file).read_text())
    (tmp_path / name).write_text(content)
    assert_refused(cli("evaluate", tmp_path), name)


def test_a_run_without_a_checkpoint(run, tmp_path):
    for file in ("config.json", "data.json"):
        (tmp_path / file).write_text((run / file).read_text())
    assert_refused(cli("evaluate", tmp_path), "no complete checkpoint", "--resume")


def test_an_unknown_split_or_checkpoint(run):
    assert_refused(cli("evaluate", run, "--split", "tset"), "Did you mean 'test'?")
    assert_refused(cli("evaluate", run, "--checkpoint", "last"), "no checkpoint 'last'", "step-00000003")


@pytest.mark.parametrize(("command", "status"), [("train", 1), ("evaluate", 2)])
def test_a_place_that_cannot_be_written_is_named(run, tmp_path, command, status):
    (tmp_path / "file").write_text("")
    arguments = {
        "train": (*flags(), "--output", tmp_path / "file" / "run"),
        "evaluate": (run, "--json", tmp_path / "no" / "figures.json"),
    }
    said = cli(command, *arguments[command])
    assert said.status == status
    assert str(tmp_path) in said.err
    assert "Traceback" not in said.err


def test_damaged_metrics_are_named_by_line(run, tmp_path):
    for file in ("config.json", "summary.json"):
        (tmp_path / file).write_text((run / file).read_text())
    lines = [json.dumps(line) for line in metrics(run)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(["{half", *lines]) + "\n")
    assert_refused(cli("report", tmp_path), "metrics.jsonl is damaged at line 1")
