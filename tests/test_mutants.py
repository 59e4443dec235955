"""Oracle: the sources themselves. The lists of the mutation run name what is there; a reason excuses a real mutant."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "mutants"))
from measure import Reach
from operators import mutants
from run import PACKAGE, TESTS, listed


@pytest.mark.parametrize(("file", "tests"), listed("targets").items(), ids=list(listed("targets")))
def test_a_target_and_its_tests_are_there(file: str, tests: list[str]) -> None:
    assert (PACKAGE / file).is_file()
    assert [test for test in tests if not (TESTS / test).is_file()] == []


@pytest.mark.parametrize(("file", "reasons"), listed("survivors").items(), ids=list(listed("survivors")))
def test_every_explained_survivor_is_a_mutant_of_today(file: str, reasons: dict[str, str]) -> None:
    assert set(reasons) <= {mutant.name for mutant in mutants((PACKAGE / file).read_text())}


def test_a_mutant_knows_the_function_in_whose_body_it_is_and_a_default_is_in_none() -> None:
    source = "class A:\n    @property\n    def f(self, a=1):\n        def g(): return 2\n        return g() + 3\n"
    found = {mutant.name: (mutant.function, mutant.line) for mutant in mutants(source)}
    body = ("A.f", 2)
    assert found == {
        "A.f: 1 -> 2": ("", 0),
        "A.f.g: 2 -> 3": body,
        "A.f: g() + 3 -> g() - 3": body,
        "A.f: 3 -> 4": body,
    }


def test_the_tests_that_reach_a_function_come_quickest_first_and_what_is_not_seen_counts_as_reached() -> None:
    seconds = {"x.py::slow": 2.0, "x.py::quick": 1.0, "y.py::other": 0.5}
    reach = Reach(seconds, {"x.py::slow": [7], "x.py::quick": [7], "y.py::other": [9]}, at_import=[5])
    assert reach.tests(7) == ["x.py::quick", "x.py::slow"]
    assert reach.tests(0) == reach.tests(5) == ["y.py::other", "x.py::quick", "x.py::slow"]
    reach.spawning.append("y.py")
    assert reach.tests(7) == ["y.py::other", "x.py::quick", "x.py::slow"]
