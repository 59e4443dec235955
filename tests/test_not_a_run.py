"""Oracle: the folders themselves. What is given in the place of a run is told apart by the files in it."""

from pathlib import Path

import pytest
import torch
from report_helpers import epoch, summary, write_run
from run_helpers import assert_refused, cli, flags
from torch import nn

import blocklocal as bl


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compared") / "both"
    given = ("compare", *flags(epochs=1, rule="greedy"), "--rules", "greedy", "frozen", "--output", folder, "--quiet")
    assert cli(*given).status == 0
    return folder


@pytest.mark.parametrize(
    ("command", "more"),
    [
        (("evaluate",), ()),
        (("diagnose",), ()),
        (("predict",), ("x.png",)),
        (("train", "--resume"), ()),
        (("trace",), ()),
        (("train", "--config"), ()),
    ],
    ids=" ".join,
)
def test_a_comparison_in_the_place_of_a_run_is_told_and_one_of_its_runs_named(comparison, command, more):
    run = comparison / "frozen-seed0"
    assert_refused(cli(*command, comparison, *more), f"{comparison} is a comparison of runs, not a run", f"as {run}")


@pytest.mark.parametrize("command", ["report", "evaluate", "diagnose"])
def test_an_empty_folder_is_told_what_it_lacks_by_every_command_alike(command, tmp_path):
    words = "is neither a run (its config.json is missing) nor a comparison (it has no compare.json)"
    assert_refused(cli(command, tmp_path), f"{tmp_path} {words}: give the folder that a training has written.")


def test_a_comparison_without_its_table_is_told_so_and_one_of_its_runs_named(tmp_path):
    run = write_run(tmp_path / "greedy-seed0", row=summary(), epochs=[epoch(1)])
    assert_refused(cli("report", tmp_path), "it has no compare.json", f"give one of its runs, such as {run}")


def test_a_comparison_without_one_of_its_runs_is_told_which(tmp_path):
    (tmp_path / "compare.json").write_text('[{"rule": "greedy", "run": "greedy-seed0", "seed": 0, "test_top1": 9.0}]')
    assert_refused(cli("report", tmp_path), "lacks its run greedy-seed0", f"--resume --output {tmp_path}")


def test_a_folder_that_save_has_written_is_told_to_be_one(tmp_path):
    network = bl.BlockLocal(bl.split(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), blocks=2), classes=2)
    network.step(torch.zeros(2, 2), torch.tensor([0, 1]))
    bl.save(network, tmp_path / "kept")
    with pytest.raises(bl.InputError, match=r"checkpoints alone, as save writes them.*load\(network, FOLDER\)"):
        bl.load(tmp_path / "kept")
