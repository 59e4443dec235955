"""`make mutants`: put small mistakes into the heart of the library, and fail where no test notices one.

    python tests/mutants/run.py [FILE …] [--minutes N] [--part I/N]

Which files, and which tests hold each of them: `targets.toml`. Survivors that harm nobody, and why: `survivors.toml`.
Every mutant runs in a forked process that has torch already, on a copy of the package; the working tree is not touched.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch
from operators import mutants

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # comes with pytest there

HERE = Path(__file__).resolve().parent
TESTS, PACKAGE = HERE.parent, HERE.parents[1] / "src" / "blocklocal"
LIMIT = 180  # seconds of one mutant; one that hangs is noticed


def main() -> int:
    given = arguments()
    targets, known = listed("targets"), listed("survivors")
    chosen = {name: tests for name, tests in targets.items() if not given.files or name in given.files}
    end, new, left = time.monotonic() + 60 * given.minutes, 0, 0
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copytree(PACKAGE, Path(folder) / "src" / "blocklocal", ignore=_caches))
        for file, tests in chosen.items():
            found, missed = try_file(copy, file, tests, known.get(file, {}), end, given.part)
            new, left = new + found, left + missed
    print(f"{new} survivors are not in survivors.toml; {left} mutants were not tried, for want of time.")
    return 1 if new else 0


def listed(name: str) -> dict:
    """`targets` or `survivors`, by file of the package."""
    return tomllib.loads((HERE / f"{name}.toml").read_text())


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="*", help="only these, as targets.toml names them")
    parser.add_argument("--minutes", type=float, default=240, help="begin no mutant later (default: %(default)s)")
    parser.add_argument("--part", default="0/1", help="every Nth mutant from the Ith: I/N, for several cores")
    return parser.parse_args()


def try_file(copy: Path, file: str, tests: list[str], known: dict, end: float, part: str) -> tuple[int, int]:
    """(survivors that nobody has explained, mutants that were not tried) of one file of the package."""
    path, (first, each) = copy / file, map(int, part.split("/"))
    source = path.read_text()
    if not passes(copy, tests):
        raise SystemExit(f"{file}: its tests fail without a mutant: {' '.join(tests)}")
    every = list(mutants(source))[first::each]
    new = harmless = left = 0
    for mutant in every:
        if time.monotonic() > end:
            left += 1
            continue
        path.write_text(mutant.source)
        if passes(copy, tests):
            explained = mutant.name in known
            harmless, new = harmless + explained, new + (not explained)
            print(f"{'harmless' if explained else 'SURVIVES'} {file}: {mutant.name}", flush=True)
    path.write_text(source)
    print(f"{file}: {len(every)} mutants, {new} survive, {harmless} harmless ones, {left} not tried", flush=True)
    return new, left


def passes(copy: Path, tests: list[str]) -> bool:
    """Whether the tests pass with the package as it is in `copy`; one that hangs does not."""
    child = os.fork()
    if child == 0:
        in_child(copy, tests)
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def in_child(copy: Path, tests: list[str]) -> None:
    """Never returns. Processes that the tests start see the copy too."""
    status = 70
    try:
        os.setsid()
        os.chdir(TESTS.parent)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1), os.dup2(null, 2)
        sys.dont_write_bytecode = True
        os.environ |= {"PYTHONPATH": str(copy.parent), "PYTHONDONTWRITEBYTECODE": "1"}
        sys.path.insert(0, str(copy.parent))
        status = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *[str(TESTS / test) for test in tests]]))
    finally:
        os._exit(status)


def _caches(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if name == "__pycache__"]


if __name__ == "__main__":
    sys.exit(main())
