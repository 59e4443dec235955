"""A user's own model, given to the command line as `file.py:function`."""

from pathlib import Path

import pytest
import torch

from blocklocal._common.errors import InputError
from blocklocal.models import build_model

SOURCE = """
from torch import nn

def small(classes, channels, image_size, width=8):
    pixels = channels * image_size[0] * image_size[1]
    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, width), nn.ReLU(), nn.Linear(width, classes))

def narrow(classes):
    return nn.Linear(1, classes)

def nothing(**options):
    return None
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "nets.py"
    path.write_text(SOURCE)
    return path


def build(reference: str, **options: object):
    return build_model(reference, classes=3, channels=1, image_size=(4, 4), **options)


def test_a_function_of_the_users_own_is_built_with_sizes_and_options(file: Path) -> None:
    model = build(f"{file}:small", width=5)
    assert model(torch.zeros(2, 1, 4, 4)).shape == (2, 3)
    assert model[1].out_features == 5


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("{file}:smal", "Did you mean 'small'"),
        ("{file}:narrow", "must take classes, channels and image_size"),
        ("{file}:nothing", "returned NoneType, not an nn.Module"),
        ("absent.py:small", "there is no file absent.py"),
    ],
)
def test_what_is_wrong_with_a_reference_is_said(file: Path, reference: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build(reference.format(file=file))


def test_a_file_that_does_not_run_is_named_with_its_error(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("import absent_library")
    with pytest.raises(InputError, match=r"broken\.py does not run: ModuleNotFoundError"):
        build(f"{broken}:make")
