"""What every test process needs.

One thread: pytest-xdist already uses the cores, and results do not depend on the machine.
"""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from quick import select
from run_helpers import without_reports

torch.set_num_threads(1)

# A script that starts the tests in the background has them ignore Ctrl-C, and what they start inherits that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="only what `quick.py` chooses: under a minute")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--quick"):
        chosen, left = select(items)
        items[:] = chosen
        config.hook.pytest_deselected(items=left)


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup() -> None:
    """What a fixture draws does not depend on what ran before it."""
    torch.manual_seed(0)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call() -> None:
    """Nor does what a test draws."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's cache of decoded data sets."""
    monkeypatch.setenv("BLOCKLOCAL_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test has a cache to itself: whatever it loads is decoded."""
    monkeypatch.setenv("BLOCKLOCAL_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits for the disk: for tests that no loss of power disturbs."""
    monkeypatch.setattr("os.fsync", lambda handle: None)


@pytest.fixture
def no_reports() -> Iterator[None]:
    """Runs of the test write no reports."""
    with without_reports():
        yield


@pytest.fixture
def texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The present folder of the test, with a small text in its folder `texts` and a cache of its own."""
    monkeypatch.setenv("BLOCKLOCAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts").mkdir()
    for i in range(40):
        (tmp_path / "texts" / f"{i}.txt").write_text(f"Text number {i} of all of them, and its words. " * 9)
    return tmp_path
