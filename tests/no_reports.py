"""A tiny run spends half its time on the plots of its report. Tests that have no use for it take an empty page."""

from pathlib import Path
from typing import Any

NO_REPORTS = "BLOCKLOCAL_TEST_NO_REPORTS"  # in the environment of a fork: its runs write empty pages


def empty_report(folder: Path, **_: Any) -> Path:
    """In the place of `blocklocal.report.write_report`."""
    (folder / "report.html").touch()
    return folder / "report.html"
