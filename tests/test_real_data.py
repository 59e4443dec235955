"""Minutes on real data: the hidden blocks learn. Not in the default run; `blocklocal compare` makes the figures."""

from pathlib import Path

import pytest

from blocklocal.recipes import get_recipe
from blocklocal.training.compare import compare

DATA = Path(__file__).parents[2] / "shared" / "data"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.mark.parametrize(("recipe", "data"), [("fashion-mlp", "fashion_mnist"), ("cifar-trial", "cifar10_jpeg")])
def test_block_local_lies_above_the_control_on_the_validation_split(recipe: str, data: str, tmp_path: Path) -> None:
    if not (DATA / data).is_dir():
        pytest.skip(f"{DATA / data} is not here")
    sizes = {"train_size": 10_000, "validation": 2_000, "test_size": 100, "epochs": 2}
    config = get_recipe(recipe).edit(data=str(DATA / data), threads=1, tensorboard=False, **sizes)
    rows = compare(config, ["block-local", "frozen"], [0], tmp_path / "out", quiet=True)
    local, control = (row["validation_top1"] for row in rows)
    assert local > control
