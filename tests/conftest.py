"""One thread per test process: pytest-xdist already uses the cores, and results do not depend on the machine."""

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's cache of decoded data sets."""
    monkeypatch.setenv("BLOCKLOCAL_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
