"""Oracle: the sources themselves. The lists of the mutation run name what is there; a reason excuses a real mutant."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "mutants"))
from operators import mutants
from run import PACKAGE, TESTS, listed


@pytest.mark.parametrize(("file", "tests"), listed("targets").items(), ids=list(listed("targets")))
def test_a_target_and_its_tests_are_there(file: str, tests: list[str]) -> None:
    assert (PACKAGE / file).is_file()
    assert [test for test in tests if not (TESTS / test).is_file()] == []


@pytest.mark.parametrize(("file", "reasons"), listed("survivors").items(), ids=list(listed("survivors")))
def test_every_explained_survivor_is_a_mutant_of_today(file: str, reasons: dict[str, str]) -> None:
    assert set(reasons) <= {mutant.name for mutant in mutants((PACKAGE / file).read_text())}
