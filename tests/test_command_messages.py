"""Oracle: what somebody has typed. A refusal names it as it was typed, and says what to type instead."""

import re

import pytest
from run_helpers import assert_refused, cli

from blocklocal._common.errors import InputError, unknown
from blocklocal.network.settings import Learning
from blocklocal.report.save import picture_paths
from blocklocal.rules import RULES

# --- settings


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("train", "--seed", -1), "--seed must be a whole number of at least 0, not -1."),
        (("train", "--image-size", 0), "--image-size must be"),
        (("plan", "--batch_size", 0), "--batch-size must be"),
        (("compare", "--label-smoothing", 1), "--label-smoothing must be a number of at least 0 and below 1, not 1.0."),
        (("compare", "--seeds", 0, -3), "--seeds must be a whole number of at least 0, not -3."),
        (("simulate", "--micro-batches", 0), "--micro-batches must be"),
    ],
)
def test_a_refused_setting_is_named_as_its_flag(arguments, words):
    said = cli(*arguments)
    assert said.status == 2
    assert said.err.startswith(f"error: {words}")


def test_a_refused_setting_of_a_file_is_named_as_the_file_has_it(tmp_path):
    (tmp_path / "config.json").write_text('{"image_size": 0}')
    assert_refused(cli("train", "--config", tmp_path), "config.json: image_size must be")


def test_a_share_that_is_no_number_is_told_both_of_its_bounds():
    with pytest.raises(InputError, match="a number of at least 0 and below 1, not True"):
        Learning(label_smoothing=True)


@pytest.mark.parametrize("given", [None, "None"])
def test_no_name_is_near_no_name(given):
    with pytest.raises(InputError) as refusal:
        RULES.get(given)
    assert "Did you mean" not in str(refusal.value)
    assert "Did you mean 'none'" in str(unknown("normalise", given, ("none", "units", "batch")))


@pytest.mark.parametrize(
    "given", [("depth",), ("depth", 3, "dropout"), ("depth", "--width", 4)], ids=["one", "three", "before a flag"]
)
def test_an_option_of_a_model_without_a_value_is_shown_how_it_is_given(given):
    assert_refused(cli("train", "--model-options", *given), "--model-options depth 3", "has no value")


def test_every_augmentation_stands_in_the_help():
    said = " ".join(re.sub("[│\n]", " ", cli("train", "--help").out).split())
    assert "crop, reflect, flip, cutout" in said


def test_the_help_has_readable_groups_and_says_nothing_of_python():
    said = cli("train", "--help").out
    for group in ("data", "model", "learning", "optimisation", "machine"):
        assert re.search(rf"^\W*{group} options\b", said, re.MULTILINE), group
    assert "settings." not in said
    assert "BlockLocal" not in said


# --- pictures


@pytest.mark.parametrize("name", ["t", "t.png", "t.svg", "t.PNG"])
def test_a_picture_s_ending_is_not_doubled(name, tmp_path):
    assert picture_paths(tmp_path / name) == [tmp_path / "t.png", tmp_path / "t.svg"]


def test_a_dot_in_a_picture_s_name_is_no_ending(tmp_path):
    assert [path.name for path in picture_paths(tmp_path / "lr0.1")] == ["lr0.1.png", "lr0.1.svg"]


# --- processes


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--processes", 9), "9 processes for 4 blocks"),
        (("--processes", 3, "--at", "a", "--processes", 3), "3 processes for 2 blocks"),
        (("--processes", 2, "--placement", 3, 2), "does not put 4 blocks into 2 processes"),
    ],
)
def test_more_processes_than_blocks_are_refused_before_one_is_started(more, words, tmp_path, monkeypatch):
    monkeypatch.setattr("blocklocal.parallel.launch.launch", lambda *_: pytest.fail("processes were started"))
    assert_refused(cli("train", *more, "--output", tmp_path / "run"), words, folder=tmp_path)
