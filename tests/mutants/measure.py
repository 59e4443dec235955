"""Which tests reach which function of a module, and how long each takes: so that a mutant meets the quickest first."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType

import pytest

STARTS_PROCESSES = {("subprocess", "_execute_child"), ("util", "spawnv_passfds")}  # (file, function)

HEAVY = ("torch", "numpy", "safetensors")  # what takes seconds to import; no plugin of pytest may be among them


@dataclass
class Reach:
    """What a run of the tests, without a mutant, has shown.

    seconds: of every test. lines: the first lines of the functions that it called. at_import: those called before any
    test. spawning: files whose tests start processes; what happens there is not seen, so they may reach anything.
    modules: of other packages, that the tests have imported.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    lines: dict[str, list[int]] = field(default_factory=dict)
    at_import: list[int] = field(default_factory=list)
    spawning: list[str] = field(default_factory=list)
    modules: list[str] = field(default_factory=list)

    def tests(self, line: int) -> list[str]:
        """The tests that reach the function of this line, quickest first; 0, or a function called at import: all."""
        anyhow = not line or line in self.at_import
        return sorted(
            (test for test in self.lines if anyhow or self._reaches(test, line)), key=self.seconds.__getitem__
        )

    def _reaches(self, test: str, line: int) -> bool:
        return line in self.lines[test] or test.split("::")[0] in self.spawning


class Measure:
    """A plugin of pytest that fills a `Reach`."""

    def __init__(self, path: Path):
        self.reach, self.path = Reach(), str(path)
        self.called, self.spawned = set[int](), False
        sys.settrace(self._trace)
        threading.settrace(self._trace)

    def _trace(self, frame: FrameType, event: str, arg: object) -> None:
        code = frame.f_code
        if code.co_filename == self.path:
            self.called.add(code.co_firstlineno)
        elif (_stem(code), code.co_name) in STARTS_PROCESSES:
            self.spawned = True

    def pytest_collection_finish(self) -> None:
        self.reach.at_import = sorted(self.called)

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, None, None]:
        self.called, self.spawned, start = set(), False, time.perf_counter()
        yield
        self.reach.seconds[item.nodeid] = time.perf_counter() - start
        self.reach.lines[item.nodeid] = sorted(self.called)
        self.reach.spawning += [item.nodeid.split("::")[0]] if self.spawned else []

    def pytest_sessionfinish(self) -> None:
        self.reach.modules = [name for name in sys.modules if name.startswith(HEAVY)]


def _stem(code: CodeType) -> str:
    return code.co_filename.rpartition("/")[2].removesuffix(".py")
