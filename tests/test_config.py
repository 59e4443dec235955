"""Oracle: the defaults and the JSON text. A configuration reads back as it was saved, and nothing else is read."""

import dataclasses
import json
from itertools import pairwise

import pytest
from run_helpers import tiny

from blocklocal._common.errors import InputError
from blocklocal.network.settings import Learning
from blocklocal.runs.config import Config, load_config
from blocklocal.runs.recipes import RECIPES, get_recipe
from blocklocal.runs.settings import Data, Machine, Model, Optimisation

GROUPS = (Data, Model, Learning, Optimisation, Machine)


@pytest.mark.parametrize(
    "config",
    [Config(), tiny(), tiny(at=("hidden2", "head"), model_options={"depth": "2"}, clip=1.5, validation=20, lr=1)],
    ids=["defaults", "tiny", "all kinds"],
)
def test_a_saved_configuration_reads_back_as_itself(tmp_path, config):
    config.save(tmp_path / "config.json")
    assert load_config(tmp_path / "config.json") == config
    assert load_config(tmp_path) == config


@pytest.mark.parametrize("name", RECIPES.names())
def test_every_recipe_reads_back_as_itself_and_says_what_it_is(tmp_path, name):
    config = get_recipe(name)
    config.save(tmp_path / "config.json")
    assert load_config(tmp_path) == config
    assert (RECIPES.get(name).__doc__ or "").strip()


def test_a_file_of_some_settings_leaves_the_others_at_their_defaults(tmp_path):
    (tmp_path / "config.json").write_text('{"epochs": 3}')
    assert load_config(tmp_path) == Config().edit(epochs=3)


def test_flat_names_every_setting_once():
    names = [field.name for group in GROUPS for field in dataclasses.fields(group)]
    assert len(set(names)) == len(names)
    assert set(Config().flat()) == set(names)


def test_edit_changes_a_setting_in_its_group_and_leaves_the_original():
    config = Config()
    edited = config.edit(epochs=3, rule="backprop", seed=9)
    assert (edited.optimisation.epochs, edited.learning.rule, edited.machine.seed) == (3, "backprop", 9)
    assert edited.data == config.data
    assert config == Config()


def test_an_unknown_setting_suggests_the_nearest():
    with pytest.raises(InputError, match=r"unknown setting 'epoch'\. Did you mean 'epochs'"):
        Config().edit(epoch=3)


def test_every_setting_has_a_description_for_the_help():
    import ast
    import inspect

    for group in GROUPS:
        body = ast.parse(inspect.getsource(group)).body[0].body
        for here, after in pairwise(body):
            if isinstance(here, ast.AnnAssign):
                described = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                assert described, f"{group.__name__}.{here.target.id}"


@pytest.mark.parametrize(
    ("validation", "split"), [(0.1, 0.1), (0, 0), (0.0, 0.0), (1, 1), (20, 20), (20.0, 20)], ids=str
)
def test_validation_below_one_is_a_fraction_and_else_a_count(validation, split):
    given = Data(validation=validation).validation_split
    assert given == split
    assert isinstance(given, int) == (not 0 <= validation < 1 or isinstance(validation, int))


# --- files that are no configuration

WRONG = {
    "epochs": ["3", 3.5, None, True, [3]],
    "train_size": ["all", 1.5, False],
    "lr": ["0.1", True, [0.1]],
    "momentum": [None],
    "validation": ["x", None],
    "data": [5, None, ["digits"]],
    "model": [18, None],
    "augment": [3, ["crop"]],
    "at": ["head", 3, [1, 2], None],
    "model_options": [[], "depth 3", {"depth": [3]}],
    "skip_bad": ["yes", 1, None],
    "images_in": [1, None],
    "stream": ["yes", 1],
    "tensorboard": ["no", 0],
    "seed": ["0", 1.5, None],
    "device": [0, None],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_value_of_the_wrong_type_is_named_with_what_is_expected(tmp_path, name, value):
    file = tmp_path / "config.json"
    file.write_text(json.dumps({name: value}))
    with pytest.raises(InputError) as caught:
        load_config(file)
    assert str(file) in str(caught.value)
    wrong = {"[1, 2]": ("at[0]", 1), '{"depth": [3]}': ("model_options.depth", [3])}
    key, stands = wrong.get(json.dumps(value), (name, value))
    assert f"{key} must be" in str(caught.value)
    assert f"not {json.dumps(stands)}" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not valid JSON"),
        ("", "not valid JSON"),
        ("[1]", "must be an object, not [1]. Expected one JSON object of settings"),
        ("null", "must be an object, not null"),
        ('{"epoch": 3}', "unknown setting 'epoch'. Did you mean 'epochs'"),
        ('{"epochs": 0}', "epochs must be a whole number of at least 1, not 0"),
        ('{"rule": "blok-local"}', "unknown rule 'blok-local'. Did you mean 'block-local'"),
        ('{"lr": NaN}', "lr must be a number above 0, not nan"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(tmp_path, text, words):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match=r".*") as caught:
        load_config(tmp_path)
    assert words in str(caught.value)


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "config.json").write_bytes(bytes(range(128, 256)))
    with pytest.raises(InputError, match="not valid JSON"):
        load_config(tmp_path)


def test_a_missing_file_says_what_to_give(tmp_path):
    with pytest.raises(InputError, match=r"give a run folder or its config\.json"):
        load_config(tmp_path / "nowhere")
