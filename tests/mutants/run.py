"""`make mutants`: put small mistakes into the heart of the library, and fail where no test notices one.

    python tests/mutants/run.py [FILE …] [--minutes N] [--part I/N]

Which files, and which tests hold each of them: `targets.toml`. Survivors that harm nobody, and why: `survivors.toml`.
Every mutant runs in a forked process on a copy of the package (`trying.py`), and meets the tests that reach it, the
quickest first (`measure.py`); the working tree is not touched.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

import torch
from operators import mutants
from trying import Trial

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # comes with pytest there

HERE = Path(__file__).resolve().parent
TESTS, PACKAGE = HERE.parent, HERE.parents[1] / "src" / "blocklocal"


def main() -> int:
    given = arguments()
    targets, known = listed("targets"), listed("survivors")
    chosen = {name: tests for name, tests in targets.items() if not given.files or name in given.files}
    end, new, left = time.monotonic() + 60 * given.minutes, 0, 0
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(PACKAGE, Path(folder) / "src" / "blocklocal", ignore=_caches)
        for file, tests in chosen.items():
            trial = Trial(Path(folder), file, tuple(f"tests/{test}" for test in tests))
            found, missed = try_file(trial, known.get(file, {}), end, given.part)
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


def try_file(trial: Trial, known: dict, end: float, part: str) -> tuple[int, int]:
    """(survivors that nobody has explained, mutants that were not tried) of one file of the package."""
    first, each = map(int, part.split("/"))
    every = list(mutants(trial.path.read_text()))[first::each]
    reach = trial.measure()
    if reach is None:
        raise SystemExit(f"{trial.file}: its tests fail without a mutant: {' '.join(trial.tests)}")
    open_ones = [mutant for mutant in every if mutant.name not in known]
    noticed = trial.try_quickly(open_ones, reach, end)
    new = left = 0
    for mutant in open_ones:
        if mutant.name not in noticed and time.monotonic() > end:
            left += 1
        elif not noticed.get(mutant.name, False) and (mutant.name in noticed or not trial.notices(mutant, reach)):
            new += 1
            print(f"SURVIVES {trial.file}: {mutant.name}", flush=True)
    print(
        f"{trial.file}: {len(every)} mutants, {len(open_ones) - new - left} noticed, {new} survive, "
        f"{len(every) - len(open_ones)} explained and not tried, {left} not tried for want of time",
        flush=True,
    )
    return new, left


def _caches(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if name == "__pycache__"]


if __name__ == "__main__":
    sys.exit(main())
