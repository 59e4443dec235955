"""What every test process needs.

One thread: pytest-xdist already uses the cores, and results do not depend on the machine.
"""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from run_helpers import without_reports

torch.set_num_threads(1)

# A script that starts the tests in the background has them ignore Ctrl-C, and what they start inherits that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's cache of decoded data sets."""
    monkeypatch.setenv("BLOCKLOCAL_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test has a cache to itself: whatever it loads is decoded."""
    monkeypatch.setenv("BLOCKLOCAL_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def no_reports() -> Iterator[None]:
    """Runs of the test write no pages."""
    with without_reports():
        yield
