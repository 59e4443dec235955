"""Oracle: the exit status and the message. Settings out of range, and names that nothing has."""

import pytest
from run_helpers import assert_refused, cli, train


@pytest.fixture(autouse=True)
def _wide_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")  # so that no message is broken in two


# --- numbers

COUNTS = ("train_size", "test_size", "image_size", "batch_size", "width", "blocks", "epochs", "threads")
ABOVE_ZERO = ("lr", "clip", "temperature")
AT_LEAST_ZERO = (
    "validation",
    "momentum",
    "weight_decay",
    "rectified_temperature",
    "reconstruction",
    "similarity",
    "tau",
    "label_smoothing",
)
BAD_NUMBERS = [
    *((name, value) for name in (*COUNTS, "checkpoint_every") for value in (0, -1)),
    *((name, value) for name in ABOVE_ZERO for value in (0, -1, "nan", "inf")),
    *((name, value) for name in AT_LEAST_ZERO for value in (-1, "nan", "inf")),
    *((name, -1) for name in ("seed", "split_seed", "readout")),
    ("momentum", 1),
    ("label_smoothing", 1),
    ("validation", 1.5),
    ("image_size", 9460),  # pixels a side: 9460² are more than a picture may have
]


@pytest.mark.parametrize(("name", "value"), BAD_NUMBERS)
def test_a_number_out_of_range_is_named_with_its_range(tmp_path, name, value):
    flag = "temperature" if name == "rectified_temperature" else "--" + name.replace("_", "-")
    assert_refused(train(tmp_path, **{name: value}), f"{flag} must be ", f"not {value}", folder=tmp_path)


@pytest.mark.parametrize("value", [0, -1])
def test_a_vector_family_needs_a_size(tmp_path, value):
    said = train(tmp_path, family="categorical", categorical_size=value)
    assert_refused(said, f"not {value}", folder=tmp_path)


@pytest.mark.parametrize("name", [*COUNTS, *ABOVE_ZERO, *AT_LEAST_ZERO, "seed", "readout", "checkpoint_every"])
def test_a_text_in_the_place_of_a_number_is_named(tmp_path, name):
    said = train(tmp_path, **{name: "many"})
    assert_refused(said, f"--{name.replace('_', '-')}", "'many'", folder=tmp_path)


# --- names

NAMES = {
    "rule": ("blok-local", "block-local"),
    "family": ("bernouli", "bernoulli"),
    "objective": ("evidense", "evidence"),
    "model": ("resnet19", "resnet18"),
    "twin": ("mirored", "mirrored"),
    "schedule": ("one-cicle", "one-cycle"),
    "optimizer": ("sdg", "sgd"),
    "order": ("secnd", "second"),
    "scope": ("neighbor", "neighbour"),
    "balance": ("flop", "flops"),
    "precision": ("bfloat", "bfloat16"),
    "device": ("cpux", "cpu"),
    "normalise": ("unit", "units"),
    "reconstruct": ("imag", "image"),
    "augment": ("flop", "flip"),
    "recipe": ("quikstart", "quickstart"),
}


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_name_is_answered_with_the_nearest(tmp_path, name):
    given, nearest = NAMES[name]
    said = train(tmp_path, **{name: given})
    assert_refused(said, f"'{given}'", f"Did you mean '{nearest}'?", "Known:", folder=tmp_path)


def test_an_unknown_flag_is_answered_with_the_nearest(tmp_path):
    assert_refused(train(tmp_path, "--epocs", 3), "--epocs", "--epochs", folder=tmp_path)


def test_an_unknown_command_is_answered_with_the_nearest():
    assert_refused(cli("trian"), "unknown command 'trian'. Did you mean 'train'?")


def test_an_unknown_place_to_cut_lists_those_there_are(tmp_path):
    assert_refused(train(tmp_path, at="hiden2"), "'hiden2'", "Did you mean 'hidden2'?", folder=tmp_path)


def test_an_unknown_option_of_a_model_lists_those_there_are(tmp_path):
    said = train(tmp_path, "--model-options", "deep", "3")
    assert_refused(said, "option of model 'mlp' 'deep'", "depth, norm", folder=tmp_path)


def test_an_option_without_a_value(tmp_path):
    assert_refused(train(tmp_path, "--model-options", "depth"), "--model-options", folder=tmp_path)


@pytest.mark.parametrize("option", ["image_size", "classes"])
def test_an_option_of_the_model_that_the_run_gives_by_itself_is_refused(tmp_path, option):
    assert_refused(train(tmp_path, "--model-options", option, "8"), f"--model-options {option}", folder=tmp_path)


def test_settings_that_exclude_each_other(tmp_path):
    said = train(tmp_path, objective="printed-eq8", family="gaussian")
    assert_refused(said, "defined for family='bernoulli' alone, not 'gaussian'", folder=tmp_path)
