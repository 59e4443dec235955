"""Processes of a test: started together, waited for, and killed with it, whatever happens."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

HERE = Path(__file__).parent
SECONDS = 90  # more than the group timeout of 60 s, so that its error is seen


@contextlib.contextmanager
def started(commands: Sequence[Sequence[str]], **environment: str) -> Iterator[list[subprocess.Popen[str]]]:
    """Run commands at the same time; what is still there at the end is killed."""
    known = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", **environment}
    running: list[subprocess.Popen[str]] = []
    try:
        for command in commands:
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
            running.append(subprocess.Popen(command, env=known, start_new_session=True, **pipes))
        yield running
    finally:
        for process in running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            process.communicate()


def finished(running: Sequence[subprocess.Popen[str]], seconds: float = SECONDS) -> list[tuple[int, str, str]]:
    """(status, stdout, stderr) of every process, all of which must end in time."""
    end = time.monotonic() + seconds
    outcomes = []
    for process in running:
        out, err = process.communicate(timeout=max(0.1, end - time.monotonic()))
        outcomes.append((process.returncode, out, err))
    return outcomes


def work(task: str, size: int, folder: Path) -> None:
    """Run a task of `parallel_worker` in `size` processes that meet in a file; all must end well."""
    script = str(HERE / "parallel_worker.py")
    commands = [[sys.executable, script, task, str(rank), str(size), str(folder)] for rank in range(size)]
    with started(commands) as running:
        outcomes = finished(running)
    assert all(status == 0 for status, _, _ in outcomes), "\n".join(err for _, _, err in outcomes)
