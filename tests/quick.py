"""What `pytest --quick` runs: one case of every test that stays in its process and is about the library itself.

The rule looks at the files, so a new test is in or out without anybody noting it down.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest

# What the text of a file holds whose tests start processes.
STARTS = re.compile(r"subprocess|multiprocessing|forking|parallel_helpers|--processes|xdist_group")
# The names of files whose tests make whole runs, reports and figures. What these show of the library, others show too.
WHOLE = re.compile(
    r"test_(benchmark|compare|diagnose|docs|figure|fuzz|longer|report|reproduce|results|run_tr|table|timeline_rep)"
)


def select(items: Sequence[pytest.Item]) -> tuple[list[pytest.Item], list[pytest.Item]]:
    """(what runs, what is left out)."""
    chosen, left, seen = [], [], set()
    for item in items:
        function = item.nodeid.partition("[")[0]
        runs = function not in seen and not WHOLE.match(item.path.name) and not starts_processes(item.path)
        seen.add(function)
        (chosen if runs else left).append(item)
    return chosen, left


@cache
def starts_processes(path: Path) -> bool:
    return bool(STARTS.search(path.read_text()))
