"""What `auto` stands for: the usual model and optimiser of the data, and never in the place of what was given."""

import pytest

from blocklocal._common.errors import InputError
from blocklocal.cli.folder import default_folder
from blocklocal.data.answers import Answers
from blocklocal.runs.build import plain_model
from blocklocal.runs.config import Config
from blocklocal.runs.facts import DatasetInfo
from blocklocal.runs.usual import suited

IMAGES = DatasetInfo(("a", "b"), 1, 16, 16, (0.0,), (1.0,))
MASKS = DatasetInfo(("a", "b"), 1, 16, 16, (0.0,), (1.0,), answers=Answers("pixels", ("a", "b")))
TABLE = DatasetInfo(("a", "b"), 1, 1, 5, (0.0,), (1.0,), "table")
SERIES = DatasetInfo(("a", "b"), 2, 1, 40, (0.0,) * 2, (1.0,) * 2, "series")


@pytest.mark.parametrize(
    ("facts", "given", "expected"),
    [
        (IMAGES, {}, ("resnet18", "sgd", 0.1)),
        (MASKS, {}, ("unet", "adamw", 3e-3)),
        (TABLE, {}, ("mlp", "adamw", 3e-3)),
        (SERIES, {}, ("conv1d", "adamw", 3e-3)),
        (IMAGES, {"model": "hf:folder"}, ("hf:folder", "adamw", 1e-3)),
        (IMAGES, {"model": "timm:vit"}, ("timm:vit", "adamw", 1e-3)),
        (IMAGES, {"optimizer": "adam"}, ("resnet18", "adam", 1e-3)),
        (TABLE, {"optimizer": "sgd"}, ("mlp", "sgd", 0.1)),
        (TABLE, {"optimizer": "sgd", "lr": 0.1, "model": "resnet18"}, ("resnet18", "sgd", 0.1)),
        (TABLE, {"lr": 0.5}, ("mlp", "adamw", 0.5)),
    ],
)
def test_auto_is_decided_by_the_data_and_what_is_given_stays(facts, given, expected):
    config = suited(Config().edit(**given), facts)
    assert (config.model.model, config.optimisation.optimizer, config.optimisation.lr) == expected
    assert suited(config, TABLE) == config  # a run that goes on keeps what was decided


def test_a_model_of_images_is_refused_for_a_table_and_not_replaced():
    with pytest.raises(InputError, match=r"resnet18 reads images \[C, H, W\].*--model mlp reads all"):
        plain_model(suited(Config().edit(model="resnet18"), TABLE), TABLE)


def test_the_folder_of_a_run_does_not_name_what_is_undecided():
    assert default_folder(Config(), "block-local").name == "digits-block-local-seed0"
    assert default_folder(Config().edit(model="mlp"), "greedy").name == "digits-mlp-greedy-seed0"
