"""Try a mutant: in a forked process, which has torch already, and on a copy of the package.

The quick way forks a process that has collected the tests, and exchanges one function there. The thorough way imports
the mutant and all that depends on it: for what runs at import, and for a function that is called there.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import CodeType, FunctionType

import pytest
from measure import Measure, Reach
from operators import Mutant

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Trial:
    """A module of the package's copy, below the temporary folder `home`, and the files of tests that hold it."""

    home: Path
    file: str
    tests: tuple[str, ...]

    @property
    def path(self) -> Path:
        return self.home / "src" / "blocklocal" / self.file

    def measure(self) -> Reach | None:
        """Run the tests without a mutant; None where they fail. What they import, this process has from then on."""
        if not forked(self._measure):
            return None
        reach = Reach(**self._result())
        for name in reach.modules:
            with contextlib.suppress(Exception):
                importlib.import_module(name)
        return None if self.notices(Mutant("none", self.path.read_text()), reach, first=1) else reach

    def try_quickly(self, mutants: Sequence[Mutant], reach: Reach, end: float) -> dict[str, bool]:
        """Whether a test notices a mutant, by its name, for all that are one exchanged function; none begins later."""
        plugin = _Quick(self.path, mutants, reach, end)

        def collect_and_try() -> int:
            return self._pytest(self.tests, plugin) or self._keep(plugin.noticed)

        if not forked(collect_and_try):
            raise SystemExit(f"{self.file}: the quick way does not work: try its tests by themselves")
        return self._result()

    def notices(self, mutant: Mutant, reach: Reach, first: int | None = None) -> bool:
        """Whether one of the tests that reach the mutant fails where the whole module is the mutant's."""
        source, tests = self.path.read_text(), reach.tests(mutant.line)[:first]
        self.path.write_text(mutant.source)
        try:
            return bool(tests) and not forked(lambda: self._pytest(tests), limit(tests, reach))
        finally:
            self.path.write_text(source)

    def _measure(self) -> int:
        plugin = Measure(self.path)
        status = self._pytest(self.tests, plugin)
        return self._keep(asdict(plugin.reach)) or status

    def _pytest(self, tests: Sequence[str], *plugins: object) -> int:
        source = str(self.home / "src")  # processes that the tests start see the copy too
        os.environ |= {"PYTHONPATH": source, "PYTHONDONTWRITEBYTECODE": "1"}
        sys.path.insert(0, source)
        importlib.import_module("blocklocal." + self.file.removesuffix(".py").replace("/", "."))
        options = ["-x", "-q", "-p", "no:cacheprovider", f"--basetemp={self.home / 'tmp'}"]
        return int(pytest.main([*options, *tests], plugins=list(plugins)))

    def _keep(self, value: object) -> int:
        (self.home / "result.json").write_text(json.dumps(value))
        return 0

    def _result(self) -> dict:
        return json.loads((self.home / "result.json").read_text())


class _Quick:
    """A plugin of pytest that forks for each mutant; in the fork the tests run that reach it."""

    def __init__(self, path: Path, mutants: Sequence[Mutant], reach: Reach, end: float):
        self.path, self.mutants, self.reach, self.end = path, mutants, reach, end
        self.noticed: dict[str, bool] = {}
        self.last, self.often = path.with_name("noticed-by"), Counter[str]()  # tests that have noticed one come first

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        source, functions = self.path.read_text(), _functions(self.path)
        gc.freeze()
        assert forked(lambda: bool(_first_failure(session, self.reach.tests(0)[:5])))  # nothing is changed yet
        for mutant in self.mutants:
            code, function = _code(mutant), functions.get(mutant.line)
            tests = sorted(self.reach.tests(mutant.line), key=lambda test: -self.often[test])
            if code is None or function is None or not tests or mutant.line in self.reach.at_import:
                continue
            if time.monotonic() > self.end:
                break
            self.path.write_text(mutant.source)  # for processes that the tests start
            work = partial(_exchange_and_run, function, code, session, tests, self.last)
            self.noticed[mutant.name] = not forked(work, limit(tests, self.reach))
            if self.noticed[mutant.name] and self.last.exists():  # else it hung
                self.often[self.last.read_text()] += 1
                self.last.unlink()
        self.path.write_text(source)
        return True


def _exchange_and_run(
    function: FunctionType, code: CodeType, session: pytest.Session, tests: list[str], last: Path
) -> int:
    function.__code__ = code
    failed = _first_failure(session, tests)
    if failed:
        last.write_text(failed)
    return int(bool(failed))


def _first_failure(session: pytest.Session, tests: list[str]) -> str:
    """The first of these tests that fails, or ""."""
    items = {item.nodeid: item for item in session.items}
    chosen = [items[test] for test in tests]
    for item, following in zip(chosen, [*chosen[1:], None], strict=True):
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.testsfailed:
            return item.nodeid
    return ""


def _functions(path: Path) -> dict[int, FunctionType]:
    """The functions of a module that are alive, by their first line."""
    alive = [each for each in gc.get_objects() if isinstance(each, FunctionType)]
    return {each.__code__.co_firstlineno: each for each in alive if each.__code__.co_filename == str(path)}


def _code(mutant: Mutant) -> CodeType | None:
    """The mutant's function, compiled; None where it has none, or several of one name."""
    found = [compile(mutant.source, "mutant", "exec")] if mutant.function else []
    for name in mutant.function.split("."):
        inside = [constant for code in found for constant in code.co_consts if isinstance(constant, CodeType)]
        found = [code for code in inside if code.co_name == name]
    return found[0] if len(found) == 1 else None


def limit(tests: Sequence[str], reach: Reach) -> float:
    """Seconds after which a mutant hangs, which is noticed too."""
    return 30 + 10 * sum(reach.seconds[test] for test in tests)


def forked(work: Callable[[], int], seconds: float = 3600) -> bool:
    """Whether `work` returned 0 in time, in a process of its own."""
    child = os.fork()
    if child == 0:
        _in_child(work)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.01)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def _in_child(work: Callable[[], int]) -> None:
    """Never returns."""
    status = 70
    try:
        os.setsid()
        os.chdir(ROOT)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1), os.dup2(null, 2)
        sys.dont_write_bytecode = True
        status = work()
    finally:
        os._exit(status)
