"""Starts Python so that files of the working folder do not take the place of Python's modules.

`python -c` and `python -m` look for every module in the working folder first: a user's own `queue.py` there would be
imported by the standard library. (`python -P` forbids it, but only from Python 3.11 on, and PYTHONSAFEPATH would be
inherited by what the user starts himself.) So the first statement takes that folder off the path; all that is on it
besides, PYTHONPATH included, stays.
"""

import subprocess
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import util
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]  # where this package lies, which may be the working folder: it comes last then
WITHOUT_FOLDER = "import sys; sys.path[:] = [place for place in sys.path if place]; "


def start_script(
    script: Path, arguments: Sequence[str], environment: Mapping[str, str], keep: Sequence[int] = ()
) -> subprocess.Popen[bytes]:
    """Start a script of this package in a session of its own, without input.

    Args:
        keep: file descriptors it inherits.
    """
    code = (
        f"{WITHOUT_FOLDER}root = {str(ROOT)!r}; sys.path += [] if root in sys.path else [root]; "
        f"from runpy import run_path; run_path({str(script)!r}, run_name='__main__')"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        pass_fds=keep,
    )


@contextmanager
def safe_spawning() -> Generator[None]:
    """What `multiprocessing` starts meanwhile (workers, and its tracker of semaphores) starts in the same way."""
    start = util.spawnv_passfds

    def start_safely(path: bytes, args: Sequence[Any], passfds: Sequence[int]) -> int:
        changed = list(args)
        code = changed.index("-c") + 1
        changed[code] = WITHOUT_FOLDER + changed[code]
        return start(path, changed, passfds)

    util.spawnv_passfds = start_safely
    try:
        yield
    finally:
        util.spawnv_passfds = start
