"""Oracle: the state that was divided. What a file of tensors cannot give back alike stays with the rest."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from run_helpers import equal

from blocklocal.training.checkpoint_draft import Draft, Saved
from blocklocal.training.checkpoint_files import Files, write_checksums
from blocklocal.training.moments import MOMENTS, divide, join


def saved(**kept: Any) -> dict[str, Any]:
    return {
        "optimizer": {"state": {0: kept, 3: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "schedule": {"last_epoch": 2},
    }


KEPT: dict[str, Any] = {
    "number": 3,
    "scalar": torch.tensor(4.0),
    "in rows": torch.randn(3, 4),
    "channels last": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
    "part of a larger one": torch.randn(8)[:2],
    "sparse": torch.eye(3).to_sparse(),
    "nothing": None,
    "a list": [torch.ones(2)],
    "a name/with a slash": torch.ones(3),
    "bfloat16": torch.ones(3, dtype=torch.bfloat16),
    "empty": torch.zeros(0, 3),
}


@pytest.mark.parametrize("name", KEPT)
def test_what_was_divided_comes_back_through_files(name: str, tmp_path: Path) -> None:
    state = saved(**{name: KEPT[name]})
    draft = Draft.open(tmp_path, 1)
    draft.write_saved(Saved(0, {}, copy.deepcopy(state)))
    write_checksums(draft.partial, draft.sums)
    found = Files.open(draft.partial).optimizer(0)
    if name == "sparse":
        found["optimizer"]["state"][0][name] = found["optimizer"]["state"][0][name].to_dense()
        state["optimizer"]["state"][0][name] = state["optimizer"]["state"][0][name].to_dense()
    assert equal(found, state)
    if isinstance(KEPT[name], torch.Tensor):
        assert found["optimizer"]["state"][0][name].stride() == state["optimizer"]["state"][0][name].stride()


def test_dividing_changes_nothing() -> None:
    state = saved(**KEPT)
    before = {key: id(value) for key, value in state["optimizer"]["state"][0].items()}
    divide(state)
    assert {key: id(value) for key, value in state["optimizer"]["state"][0].items()} == before


def test_an_optimiser_that_keeps_nothing_has_no_file_of_moments() -> None:
    empty = {"optimizer": {"state": {}, "param_groups": []}, "schedule": None}
    assert divide(empty) == (empty, {})
    assert divide({"optimizer": None, "schedule": None}) == ({"optimizer": None, "schedule": None}, {})


def lose(rest: dict[str, Any], moments: dict[str, Any]) -> None:
    moments.popitem()


def rename(rest: dict[str, Any], moments: dict[str, Any]) -> None:
    rest[MOMENTS][0] = "0/other"
    moments["0/other"] = moments.pop("0/in rows")


def far(rest: dict[str, Any], moments: dict[str, Any]) -> None:
    rest[MOMENTS] = ["7/in rows", "3/exp_avg"]
    moments["7/in rows"] = moments.pop("0/in rows")


def twice(rest: dict[str, Any], moments: dict[str, Any]) -> None:
    rest["optimizer"]["state"][0]["in rows"] = torch.zeros(1)


def no_state(rest: dict[str, Any], moments: dict[str, Any]) -> None:
    rest["optimizer"] = None


@pytest.mark.parametrize("change", [lose, rename, far, twice, no_state])
def test_parts_that_do_not_belong_together_are_refused(change: Any) -> None:
    rest, moments = divide(saved(**{"in rows": KEPT["in rows"]}))
    change(rest, moments)
    with pytest.raises(ValueError, match=r"it names|no place|twice"):
        join(rest, moments)
