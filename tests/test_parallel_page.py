"""The program of docs/parallel.md: alone and under torchrun it prints the same weights."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from parallel_helpers import finished, started

pytestmark = [pytest.mark.xdist_group("processes"), pytest.mark.timeout(180)]
PAGE = Path(__file__).parents[1] / "docs" / "parallel.md"


def test_the_program_of_the_page_learns_the_same_under_torchrun(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)[0])
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    printed = []
    for argv in ([sys.executable], run):
        with started([[*argv, str(program)]]) as running:
            status, out, err = finished(running)[0]
        assert status == 0, err
        # torchrun leaves output unbuffered, so the two may print their lists before either has ended its line
        printed.append(sorted(value for each in re.findall(r"\[.*?\]", out) for value in json.loads(each)))
    assert len(printed[0]) == 2
    assert printed[0] == printed[1]
