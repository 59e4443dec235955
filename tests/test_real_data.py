"""Minutes on real data: the hidden blocks learn. Not in the default run; `blocklocal compare` makes the figures."""

from pathlib import Path

import pytest

from blocklocal.data.text import INSTALLED, PACKAGED
from blocklocal.runs.compare import compare
from blocklocal.runs.recipes import get_recipe
from experiments.runner import JobLaunch, reproduce

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


@pytest.mark.parametrize(
    ("experiment", "jobs", "better"),
    [
        ("table1", ("fashion-mnist-resnet18-frozen-seed0", "fashion-mnist-resnet18-evidence-seed0"), "test_top1"),
        ("figure2", ("frozen-seed0", "folded-seed0"), "spearman"),
        ("figure3", ("language-frozen-2-seed0", "language-evidence-readout-2-seed0"), "test_bits"),
    ],
)
def test_an_experiment_of_the_paper_at_quick_size_lies_above_its_control(experiment, jobs, better, tmp_path) -> None:
    if not (DATA / "fashion_mnist").is_dir() or (experiment == "figure3" and not list(INSTALLED.glob(PACKAGED))):
        pytest.skip("the data of this experiment are not here")
    report = reproduce(experiment, "quick", tmp_path / "out", JobLaunch(data=DATA, only=jobs))
    control, ours = (row[better] for name in jobs for row in report.rows if row["job"] == name)
    assert (ours < control) if better == "test_bits" else (ours > control)
