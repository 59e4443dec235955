"""Oracle: the same jobs in one process. Workers give the same rows, stop when told, and never outlive their parent."""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from data_files import labels, png, write_parquet
from parallel_helpers import python, started, wait_until
from PIL import Image
from reproduce_helpers import image_sets, timeless, tiny_job, use_jobs

from blocklocal._common.errors import InputError
from blocklocal.parallel.watch import is_running
from experiments.experiment import Job, Place
from experiments.figure2 import SIZES
from experiments.runner import JobLaunch, reproduce
from experiments.workers import run_spread

pytestmark = [
    pytest.mark.xdist_group("workers"),  # not "processes", which is the longest part of a test run
    pytest.mark.usefixtures("no_reports"),
]

# Endless jobs, as many at a time as the third argument says; tells the process numbers of its children, when they run.
ENDLESS = """
import multiprocessing, sys, threading, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from reproduce_helpers import tiny_job
from blocklocal.cli import main
from experiments.table1 import Table1

def tell():
    begun = lambda: list(Path(sys.argv[3]).glob("jobs/*/run/metrics.jsonl"))
    count = int(sys.argv[4])
    while len(begun()) < count:
        time.sleep(0.05)
    print(*[child.pid for child in multiprocessing.active_children()], flush=True)

if __name__ == "__main__":
    Table1.jobs = lambda self, size: [tiny_job(seed=seed, epochs=10**6) for seed in (0, 1, 2)]
    threading.Thread(target=tell, daemon=True).start()
    sys.exit(main(["reproduce", "table1", "--data", sys.argv[2], "--output", sys.argv[3], "--jobs", sys.argv[4]]))
"""


@contextlib.contextmanager
def endless(folder: Path, jobs: int = 2) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """Run `ENDLESS`; gives its process and the numbers of its children."""
    with started([python(ENDLESS, Path(__file__).parent, image_sets(folder / "sets"), folder / "out", jobs)]) as (run,):
        assert run.stdout is not None
        run.stdout.readline()
        children = [int(number) for number in run.stdout.readline().split()]
        assert len(children) == (jobs if jobs > 1 else 0)
        yield run, children


def wait_until_gone(children: list[int]) -> None:
    wait_until(lambda: not any(map(is_running, children)), 30)


def test_two_processes_give_the_rows_of_one(tmp_path, monkeypatch):
    sets = image_sets(tmp_path / "sets")
    use_jobs(monkeypatch, *[tiny_job(method) for method in ("backprop", "evidence", "frozen")])
    one = reproduce("table1", "quick", tmp_path / "one", JobLaunch(data=sets, jobs=1), say=lambda line: None)
    two = reproduce("table1", "quick", tmp_path / "two", JobLaunch(data=sets, jobs=2), say=lambda line: None)
    assert timeless(one.rows) == timeless(two.rows)
    assert [row["job"] for row in two.rows] == [row["job"] for row in one.rows]


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_signal_saves_the_running_jobs_and_ends_their_processes(tmp_path, jobs):
    with endless(tmp_path, jobs) as (process, children):
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 130, out + err
        assert "3 jobs left" in err
        assert "Traceback" not in err
        wait_until_gone(children)
    saved = {path.parents[3] for path in (tmp_path / "out").glob("jobs/*/run/checkpoints/step-*/state.json")}
    assert len(saved) == jobs


def test_a_second_signal_waits_for_no_job(tmp_path):
    with endless(tmp_path) as (process, children):
        for child in children:
            os.kill(child, signal.SIGSTOP)  # jobs that cannot answer a wish to stop
        process.send_signal(signal.SIGINT)
        time.sleep(1)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        assert process.returncode == 130
        wait_until_gone(children)


def test_workers_do_not_outlive_a_killed_parent(tmp_path):
    with endless(tmp_path) as (process, children):
        process.kill()
        wait_until_gone(children)


def test_a_killed_worker_is_said_and_nothing_hangs(tmp_path):
    sets = image_sets(tmp_path / "sets")
    work = [(job, Place(tmp_path / job.name, sets)) for job in (tiny_job(seed=seed, epochs=10**6) for seed in (0, 1))]

    def kill_one() -> bool:
        begun = list(tmp_path.glob("*/run/metrics.jsonl"))
        if len(begun) == 2:
            multiprocessing.active_children()[0].kill()
        return False

    with pytest.raises(InputError, match=r"killed \(out of memory\?\).*kept.*fewer --jobs"):
        list(run_spread("table1", work, 1, kill_one, 2))


def test_with_a_killed_worker_go_those_that_do_not_listen(tmp_path):
    """A job of figure 2 looks at the wish to stop after every epoch, and has no handler of signals."""
    for name in ("fashion_mnist", "mnist"):
        for split in ("train", "test"):
            pictures = [png(Image.new("L", (8, 8), i)) for i in range(12)]
            write_parquet(tmp_path / "sets" / name / f"{split}-00000-of-00001.parquet", pictures, labels(12))
    settings = {**SIZES["quick"], "method": "plain", "epochs": 10**6, "wide": 2, "hidden": 6, "bottleneck": 3}
    settings |= {"batch_size": 8, "validation": 4, "train_size": 8}
    work = [
        (Job(f"plain-seed{seed}", {**settings, "seed": seed}), Place(tmp_path / str(seed), tmp_path / "sets"))
        for seed in (0, 1)
    ]
    killed = []

    def kill_one() -> bool:
        if not killed and all(place.folder.exists() for _, place in work):
            # The first: of one started later, concurrent.futures may notice the death only after the next result.
            killed.append(min(multiprocessing.active_children(), key=lambda child: child.pid or 0))
            killed[0].kill()
        return False

    with pytest.raises(InputError, match="killed"):
        list(run_spread("figure2", work, 1, kill_one, 2))
    assert not multiprocessing.active_children()


def test_bad_data_of_one_job_stops_the_others_and_loses_nothing_that_is_finished(tmp_path):
    sets = image_sets(tmp_path / "sets")
    work = [
        (tiny_job(seed=0), Place(tmp_path / "a", sets)),
        (tiny_job(seed=1), Place(tmp_path / "b", tmp_path / "nowhere")),
        (tiny_job(seed=2, epochs=10**6), Place(tmp_path / "c", sets)),
    ]
    outcomes = []
    with pytest.raises(InputError, match="there is no folder"):
        outcomes.extend(run_spread("table1", work, 1, lambda: False, 2))
    assert work[0][0].name in {outcome.job.name for outcome in outcomes if outcome.row is not None or outcome.stopped}
    assert not any(outcome.row for outcome in outcomes if outcome.job.name == work[2][0].name)
